//! A topic's registry: the broker's side, which moves the versions, and the members' side, which watch them.
//!
//! The broker announces a change to the members' connections first and moves the version after, so
//! that a member that sees a version finds the events up to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::REGISTRY_BYTES;
use super::layout::{Line, REGISTRY_MAGIC};
use super::placement::{Placement, PlacementReport};
use super::segment::{self, Kind};
use crate::Result;
use crate::backend::{Backend, MappedRegistry, Native, Site, site};
use crate::fork::{Unshared, unshared};

/// The broker's side of a registry segment.
pub struct Registry {
    fd: Unshared<OwnedFd>,
    page: MappedRegistry,
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

/// Maps a registry that the broker handed out.
///
/// # Errors
/// [`Error::Segment`](crate::Error::Segment) where it is not one.
pub fn open(fd: &impl AsFd) -> Result<MappedRegistry> {
    Ok(open_placed(fd, &Placement::default())?.0)
}

/// As [`open`]; mapped and locked as asked, and what became of that.
///
/// # Errors
/// As for [`open`].
pub fn open_placed(
    fd: &impl AsFd,
    placement: &Placement,
) -> Result<(MappedRegistry, PlacementReport)> {
    let mapping = segment::open_placed(fd, Kind::Registry, REGISTRY_BYTES, placement)?;
    let report = mapping.report().clone();
    let page = MappedRegistry::new(Arc::new(mapping));
    page.identity.check(Kind::Registry, REGISTRY_MAGIC)?;
    Ok((page, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_see_the_versions_move() {
        let mut registry = Registry::create().unwrap();
        let member = open(&registry.fd()).unwrap();
        assert_eq!(registry.bump_publishers(), 1);
        assert_eq!(registry.bump_publishers(), 2);
        assert_eq!(registry.bump_subscribers(), 1);
        assert_eq!(
            (version(&member.publishers), version(&member.subscribers)),
            (2, 1)
        );
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
        let error = open(&fd).err().unwrap().to_string();
        assert!(error.contains("registry"), "{error}");
    }
}
