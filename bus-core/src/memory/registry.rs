//! A topic's registry: the broker's side, which moves the versions, and the members' side, which watch them.
//!
//! The broker announces a change to the members' connections first and moves the version after, so
//! that a member that sees a version finds the events up to it.
//!
//! Whoever maps a word read-only can move its sleepers to a word of its own (`FUTEX_CMP_REQUEUE`),
//! so that nobody wakes them. So where members are of more than one user, nobody sleeps on shared
//! words:
//!
//! ```text
//!  broker, before it lets the second user in     sleeper
//!  foreign = 1                                   foreign? then it parks at its own doorbell
//!  both versions += 1, wake who sleeps on them   sleep while the version is as it was
//!  hand descriptors to the newcomer
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::REGISTRY_BYTES;
use super::layout::{Line, REGISTRY_MAGIC, RegistryPage};
use super::placement::{Placement, PlacementReport};
use super::segment::{self, Kind, Mapping};
use crate::Result;
use crate::backend::{Backend, MappedRegistry, Native, Site, site};
use crate::control::Role;
use crate::fork::{Unshared, unshared};

/// The broker's side of a registry segment.
pub struct Registry {
    fd: Unshared<OwnedFd>,
    page: MappedRegistry,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("publishers", &self.publishers())
            .field("subscribers", &self.subscribers())
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Makes a registry with both versions 0.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) where there is no page for it.
    pub fn create() -> Result<Self> {
        Self::starting_at(0)
    }

    /// As [`create`](Self::create), with both versions `version`: who has known another registry of the topic sees that this is none of
    /// that one's.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn starting_at(version: u32) -> Result<Self> {
        let (fd, mapping) = segment::create(Kind::Registry, REGISTRY_BYTES)?;
        let fd = Unshared::new(|| Ok(fd)).map_err(unshared)?;
        let page = MappedRegistry::new(Arc::new(mapping));
        for line in [&page.publishers, &page.subscribers] {
            // ORDERING: as in `bump`; nobody has the page yet.
            Native::store32(&line.0, version, BUMP);
        }
        page.identity.write(REGISTRY_MAGIC);
        Ok(Self { fd, page })
    }

    /// The descriptor to hand out.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Version of the set of publishers.
    pub fn publishers(&self) -> u32 {
        version(&self.page.publishers)
    }

    /// Version of the set of subscribers.
    pub fn subscribers(&self) -> u32 {
        version(&self.page.subscribers)
    }

    /// From now on members park at their own doorbells. To be followed by a move of both versions,
    /// which wakes those that sleep, and only then by descriptors for a member of a second user.
    pub fn set_foreign(&mut self) {
        // ORDERING: both versions move after it, with release: see `is_foreign`.
        Native::store32(&self.page.foreign.0, 1, site::RELAXED);
    }

    /// Moves the version of the set of publishers and wakes who sleeps on it; returns the new one.
    pub fn bump_publishers(&mut self) -> u32 {
        bump(&self.page.publishers)
    }

    /// Moves the version of the set of subscribers and wakes who sleeps on it; returns the new one.
    pub fn bump_subscribers(&mut self) -> u32 {
        bump(&self.page.subscribers)
    }
}

fn version(line: &Line<<Native as Backend>::Word32>) -> u32 {
    // ORDERING: only the broker moves it, and it alone asks here.
    Native::load32(&line.0, site::RELAXED)
}

fn bump(line: &Line<<Native as Backend>::Word32>) -> u32 {
    let next = version(line).wrapping_add(1);
    // ORDERING: pairs with the members' look at the version; the events it stands for went through the
    // kernel before, and release keeps them before.
    Native::store32(&line.0, next, BUMP);
    Native::wake(&line.0);
    next
}

/// Outside the mutation gate: what it orders is a socket, which no model has.
const BUMP: Site = Site {
    name: "registry.bump",
    // ORDERING: see `bump`.
    ordering: std::sync::atomic::Ordering::Release,
};

/// A registry that the broker handed out, to be looked at. The words themselves are not given out: a store to one of them
/// faults, for the page is mapped read-only.
#[derive(Debug)]
pub struct Versions(MappedRegistry);

impl Versions {
    /// Maps it.
    ///
    /// # Errors
    /// [`Error::Segment`](crate::Error::Segment) where it is no registry.
    pub fn open(fd: &impl AsFd) -> Result<Self> {
        Ok(Self(open_placed(fd, &Placement::default())?.0))
    }

    /// Version of the set of publishers. What the broker did before it moved the version is seen after this.
    pub fn publishers(&self) -> u32 {
        Native::load32(&self.0.publishers.0, LOOK)
    }

    /// Version of the set of subscribers, likewise.
    pub fn subscribers(&self) -> u32 {
        Native::load32(&self.0.subscribers.0, LOOK)
    }

    /// Whether members are to park at their own doorbells.
    pub fn is_foreign(&self) -> bool {
        is_foreign(&self.0, &self.0.publishers)
    }
}

/// Whether a member that watches this version of the registry is to park instead of sleeping on
/// shared words. To be asked before each such sleep: one that was told of a version that moved
/// after the word was set sees the word.
#[inline]
pub(crate) fn is_foreign<B: Backend>(
    registry: &RegistryPage<B>,
    watched: &Line<B::Word32>,
) -> bool {
    // ORDERING: pairs with the broker's release in `bump`. Whoever sleeps with a version compares
    // it in the kernel; a version that is older than the word ends the sleep.
    let _version = B::load32(&watched.0, LOOK);
    // ORDERING: the load above is ahead of it.
    B::load32(&registry.foreign.0, site::RELAXED) != 0
}

/// Outside the mutation gate, as [`BUMP`].
const LOOK: Site = Site {
    name: "registry.look",
    // ORDERING: acquire pairs with the broker's release in `bump`.
    ordering: std::sync::atomic::Ordering::Acquire,
};

/// Maps a registry that the broker handed out, mapped and locked as asked, and what became of that.
///
/// # Errors
/// [`Error::Segment`](crate::Error::Segment) where it is not one.
pub(crate) fn open_placed(
    fd: &impl AsFd,
    placement: &Placement,
) -> Result<(MappedRegistry, PlacementReport)> {
    let mapping = segment::open_placed(fd, Kind::Registry, REGISTRY_BYTES, placement)?;
    let report = mapping.report().clone();
    let page = MappedRegistry::new(Arc::new(mapping));
    page.identity.check(Kind::Registry, REGISTRY_MAGIC)?;
    Ok((page, report))
}

/// Where a member has its registry mapped, shared with whoever follows the topic from broker to broker for it.
#[derive(Clone, Debug)]
pub struct Seat {
    mapping: Arc<Mapping>,
    placement: Placement,
}

impl Seat {
    /// Where this registry, which is mapped as `placement` says, lies.
    pub(crate) fn new(registry: &MappedRegistry, placement: &Placement) -> Self {
        Self {
            mapping: Arc::clone(registry.mapping()),
            placement: placement.clone(),
        }
    }

    /// The version of the set that a member with this role watches.
    pub fn watched_by(&self, role: Role) -> u32 {
        let page = MappedRegistry::new(Arc::clone(&self.mapping));
        let line = match role {
            Role::Publisher => &page.subscribers,
            Role::Subscriber => &page.publishers,
        };
        // ORDERING: what it stands for came through a socket, or will.
        Native::load32(&line.0, site::RELAXED)
    }

    /// Whether the broker of this registry has let members of more than one user in.
    pub fn is_foreign(&self) -> bool {
        let page = MappedRegistry::new(Arc::clone(&self.mapping));
        is_foreign(&page, &page.publishers)
    }

    /// Puts the registry that another broker handed out in the place of the one that is there, and wakes who sleeps on the words of that one. The
    /// member's next look at its version is at the new one.
    ///
    /// A sleeper is queued by the page, not by the address. Who is queued when the pages change is woken through a second mapping of the old one; who
    /// comes to be queued later compares the new page with what it has seen in the old one. So the versions of two brokers must differ.
    ///
    /// # Errors
    /// [`Error::Segment`](crate::Error::Segment) where it is none, [`Error::Io`](crate::Error::Io) where the kernel lacks memory: the old one
    /// is still there.
    pub fn replace(&self, fd: &impl AsFd) -> Result<()> {
        let new = segment::open_placed(fd, Kind::Registry, REGISTRY_BYTES, &self.placement)?;
        let new = Arc::new(new);
        let page = MappedRegistry::new(Arc::clone(&new));
        page.identity.check(Kind::Registry, REGISTRY_MAGIC)?;
        drop(page);
        let Some(new) = Arc::into_inner(new) else {
            unreachable!("nobody else has it");
        };
        // Locked pages may not be had twice. Then who sleeps on them looks around by itself, a little later.
        let old = self.mapping.double(Kind::Registry);
        new.replace(&self.mapping)?;
        if let Ok(old) = old {
            let old = MappedRegistry::new(Arc::new(old));
            Native::wake(&old.publishers.0);
            Native::wake(&old.subscribers.0);
        }
        Ok(())
    }

    /// Puts a registry there whose versions nobody leads to: so a member that no broker takes any more comes to notice.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace); [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn outdate(&self) -> Result<()> {
        let mut registry = Registry::create()?;
        if self.is_foreign() {
            registry.set_foreign();
        }
        for (line, role) in [
            (&registry.page.publishers, Role::Subscriber),
            (&registry.page.subscribers, Role::Publisher),
        ] {
            let version = self.watched_by(role).wrapping_add(FAR);
            // ORDERING: nobody else has it yet.
            Native::store32(&line.0, version, site::RELAXED);
        }
        self.replace(&registry.fd())
    }
}

/// Further than one broker goes.
const FAR: u32 = 1 << 19;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_see_the_versions_move() {
        let mut registry = Registry::create().unwrap();
        let member = Versions::open(&registry.fd()).unwrap();
        assert_eq!(registry.bump_publishers(), 1);
        assert_eq!(registry.bump_publishers(), 2);
        assert_eq!(registry.bump_subscribers(), 1);
        assert_eq!((member.publishers(), member.subscribers()), (2, 1));
    }

    fn seated(registry: &Registry) -> (MappedRegistry, Seat) {
        let (member, _) = open_placed(&registry.fd(), &Placement::default()).unwrap();
        let seat = Seat::new(&member, &Placement::default());
        (member, seat)
    }

    /// A broker that was followed by another one; its versions are others than those of all before.
    fn successor(incarnation: u32) -> Registry {
        let registry = Registry::create().unwrap();
        // ORDERING: nobody else has it yet.
        Native::store32(
            &registry.page.publishers.0,
            incarnation << 20,
            site::RELAXED,
        );
        Native::store32(
            &registry.page.subscribers.0,
            incarnation << 20,
            site::RELAXED,
        );
        registry
    }

    #[test]
    fn a_member_sees_the_registry_of_the_next_broker_where_the_old_one_was() {
        let (member, seat) = seated(&successor(1));
        let mut next = successor(2);
        seat.replace(&next.fd()).unwrap();
        next.bump_publishers();
        assert_eq!(version(&member.publishers), (2 << 20) + 1);
        assert_eq!(seat.watched_by(Role::Subscriber), (2 << 20) + 1);
        assert_eq!(seat.watched_by(Role::Publisher), 2 << 20);
    }

    #[test]
    fn members_see_that_there_is_a_second_user_and_go_on_seeing_it_when_no_broker_takes_them() {
        let mut registry = successor(1);
        let look = Versions::open(&registry.fd()).unwrap();
        let (_member, seat) = seated(&registry);
        assert!(!look.is_foreign() && !seat.is_foreign());
        registry.set_foreign();
        registry.bump_publishers();
        assert!(look.is_foreign() && seat.is_foreign());
        seat.outdate().unwrap();
        assert!(seat.is_foreign());
        seat.replace(&successor(2).fd()).unwrap();
        assert!(!seat.is_foreign());
    }

    #[test]
    fn what_is_no_registry_takes_no_place() {
        let (member, seat) = seated(&successor(1));
        let (fd, _mapping) = segment::create(Kind::Reader, REGISTRY_BYTES).unwrap();
        assert!(seat.replace(&fd).is_err());
        assert_eq!(version(&member.publishers), 1 << 20);
    }

    /// Classes 5 and 13 of the field notes: a reader of pages that go; a lost wake-up.
    #[test]
    fn who_reads_and_who_sleeps_while_registries_change_goes_on() {
        use std::time::{Duration, Instant};

        const CHANGES: u32 = 500;
        let (member, seat) = seated(&successor(1));
        // Publishers sleep on one of the words, subscribers on the other.
        type Word = fn(&MappedRegistry) -> &Line<<Native as Backend>::Word32>;
        let words: [Word; 2] = [|page| &page.publishers, |page| &page.subscribers];
        let slept = std::thread::scope(|scope| {
            let sleepers = words.map(|word| {
                let member = member.clone();
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    let mut seen = version(word(&member));
                    while seen < CHANGES << 20 {
                        let began = Instant::now();
                        Native::sleep(
                            &[(&word(&member).0, seen)],
                            Some(began + Duration::from_secs(30)),
                        );
                        longest = longest.max(began.elapsed());
                        seen = version(word(&member));
                    }
                    longest
                })
            });
            let reader = {
                let member = member.clone();
                scope.spawn(move || {
                    let mut seen = 0;
                    while seen < CHANGES << 20 {
                        let now = version(&member.publishers);
                        assert!(now >= seen, "the old registry was back");
                        seen = now;
                    }
                })
            };
            for incarnation in 2..=CHANGES {
                seat.replace(&successor(incarnation).fd()).unwrap();
                std::thread::yield_now();
            }
            reader.join().unwrap();
            let slept = sleepers.map(|sleeper| sleeper.join().unwrap());
            slept.into_iter().max().unwrap_or_default()
        });
        assert!(slept < Duration::from_secs(10), "slept for {slept:?}");
    }

    #[test]
    fn a_registry_that_follows_another_starts_elsewhere() {
        let mut registry = Registry::starting_at(u32::MAX).unwrap();
        assert_eq!(registry.subscribers(), u32::MAX);
        assert_eq!(registry.bump_publishers(), 0);
    }

    #[test]
    fn another_kind_of_segment_is_refused() {
        let (fd, _mapping) = segment::create(Kind::Reader, REGISTRY_BYTES).unwrap();
        let error = Versions::open(&fd).err().unwrap().to_string();
        assert!(error.contains("registry"), "{error}");
    }
}
