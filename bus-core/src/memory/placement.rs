//! Where a segment's pages are to be, and where they are.
//!
//! Whoever makes a segment asks for huge pages, a NUMA node, locked or mapped pages; whoever maps another's asks for what concerns its
//! own mapping. Promises: a wish that cannot be met is no error, and never passed over in silence: the report says what is there
//! instead, and why. What the report calls granted was looked up after the fact, where the kernel says it.

use std::fmt;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::pages::{Access, HUGE, Pages};
use super::segment::Kind;
use super::told;
use crate::{Error, Result};

/// What is asked for.
///
/// ```
/// use bus_core::memory::placement::Placement;
/// let placement = Placement { lock: true, ..Placement::default() };
/// assert!(placement.prefault && !placement.huge_pages);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Pages of 2 MiB: from the machine's pool, else transparent ones.
    pub huge_pages: bool,
    /// Every page mapped up front, so that no first touch costs a page fault.
    pub prefault: bool,
    /// Pages locked in memory (`mlock`).
    pub lock: bool,
    /// Pages on this NUMA node.
    pub node: Option<u32>,
}

impl Default for Placement {
    /// Mapped up front; else as the kernel likes it.
    fn default() -> Self {
        Self {
            huge_pages: false,
            prefault: true,
            lock: false,
            node: None,
        }
    }
}

/// What became of one wish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PlacementOutcome {
    /// Nobody asked.
    #[default]
    NotAsked,
    /// It is so: in words, how.
    Granted(String),
    /// It is not so, or not wholly: in words, what is there instead, and why.
    FellBack(String),
}

impl PlacementOutcome {
    /// Whether it is so.
    pub fn granted(&self) -> bool {
        matches!(self, Self::Granted(_))
    }

    /// Why it is not so, where it was asked for and is not.
    pub fn fell_back(&self) -> Option<&str> {
        match self {
            Self::FellBack(why) => Some(why),
            _ => None,
        }
    }

    /// Takes in what became of the same wish for another segment: the first fall-back stands.
    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::FellBack(_), _) | (_, Self::NotAsked) => {}
            (Self::Granted(how), Self::Granted(other)) => {
                if !how.contains(&other) {
                    how.push_str("; ");
                    how.push_str(&other);
                }
            }
            (this, other) => *this = other,
        }
    }
}

impl fmt::Display for PlacementOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("not asked for"),
            Self::Granted(how) => f.write_str(how),
            Self::FellBack(why) => write!(f, "not as asked: {why}"),
        }
    }
}

/// What became of a [`Placement`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementReport {
    /// Of [`Placement::huge_pages`].
    pub huge_pages: PlacementOutcome,
    /// Of [`Placement::prefault`].
    pub prefault: PlacementOutcome,
    /// Of [`Placement::lock`].
    pub lock: PlacementOutcome,
    /// Of [`Placement::node`].
    pub node: PlacementOutcome,
}

impl PlacementReport {
    /// Each wish by its name, and what became of it.
    pub fn outcomes(&self) -> [(&'static str, &PlacementOutcome); 4] {
        [
            ("huge pages", &self.huge_pages),
            ("prefault", &self.prefault),
            ("lock", &self.lock),
            ("node", &self.node),
        ]
    }

    /// Whether all that was asked for is so.
    pub fn as_asked(&self) -> bool {
        self.outcomes().iter().all(|(_, o)| o.fell_back().is_none())
    }

    /// Takes in the report on another segment of the same handle: the first fall-back of each wish stands.
    pub fn merge(&mut self, other: Self) {
        self.huge_pages.merge(other.huge_pages);
        self.prefault.merge(other.prefault);
        self.lock.merge(other.lock);
        self.node.merge(other.node);
    }
}

impl fmt::Display for PlacementReport {
    /// One wish after the other, such as `huge pages: not asked for; prefault: every page is mapped; …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, outcome)) in self.outcomes().into_iter().enumerate() {
            let comma = if at > 0 { "; " } else { "" };
            write!(f, "{comma}{name}: {outcome}")?;
        }
        Ok(())
    }
}

impl Placement {
    /// Checks what no machine state can excuse.
    ///
    /// # Errors
    /// [`Error::Node`] where there is no such NUMA node.
    pub fn check(&self) -> Result<()> {
        let Some(node) = self.node else {
            return Ok(());
        };
        // A kernel without NUMA lists none, and has the one.
        let nodes = told::nodes().unwrap_or_else(|| "0".into());
        if told::lists(&nodes, node) {
            return Ok(());
        }
        Err(Error::Node { node, nodes })
    }

    /// What of this concerns a segment of this kind: only a ring is large enough for huge pages, and on which node
    /// it is, its maker decides.
    pub(super) fn of(&self, kind: Kind, ours: bool) -> Self {
        Self {
            huge_pages: self.huge_pages && kind == Kind::Ring,
            node: self.node.filter(|_| ours),
            ..self.clone()
        }
    }

    /// Before pages are allocated: says where they are to come from.
    pub(super) fn prepare(&self, pages: &Pages, report: &mut PlacementReport) {
        let Some(node) = self.node else {
            return;
        };
        if let Err(error) = pages.prefer_node(node) {
            let why = match error {
                Errno::EINVAL => "this process may not use it (see its control group's cpuset)",
                Errno::EPERM | Errno::ENOSYS => "mbind(2) is refused to this process",
                error => error.desc(),
            };
            let why = format!("node {node}: {why}; pages are where the kernel put them");
            report.node = PlacementOutcome::FellBack(why);
        }
    }

    /// When all pages are allocated: maps and locks them, then looks what is there. `what` names the segment; `pool` says of one that
    /// was made here why it has no pages of the pool.
    pub(super) fn finish(
        &self,
        pages: &Pages,
        access: Access,
        what: &str,
        pool: Option<&str>,
        report: &mut PlacementReport,
    ) {
        use PlacementOutcome::{FellBack, Granted};
        // What is asked of pages below can be seen only of those that are mapped.
        let mapped = if self.prefault || self.huge_pages || self.node.is_some() {
            pages.populate(access)
        } else {
            Ok(())
        };
        if self.prefault {
            report.prefault = match mapped {
                Ok(()) => Granted("every page is mapped".into()),
                Err(error) => FellBack(format!("{what}: pages are mapped at first touch: {error}")),
            };
        }
        if self.lock {
            report.lock = match pages.lock() {
                Ok(()) => Granted("every page is locked in memory".into()),
                Err(error) => FellBack(format!(
                    "{what} is not locked: {}",
                    why_not_locked(pages, error)
                )),
            };
        }
        if self.huge_pages {
            report.huge_pages = self.huge_outcome(pages, access, what, pool);
        }
        if let Some(node) = self.node
            && report.node == PlacementOutcome::NotAsked
        {
            report.node = match told::on_node(pages.base().as_ptr() as usize, node) {
                Some((there, all)) if there == all && all > 0 => {
                    Granted(format!("every page is on node {node}"))
                }
                Some((there, all)) => FellBack(format!(
                    "{there} of {all} pages of {what} are on node {node}: it had no more"
                )),
                None => FellBack(format!(
                    "{what} was asked to be on node {node}; the kernel does not say whether it is"
                )),
            };
        }
    }

    fn huge_outcome(
        &self,
        pages: &Pages,
        access: Access,
        what: &str,
        pool: Option<&str>,
    ) -> PlacementOutcome {
        use PlacementOutcome::{FellBack, Granted};
        let base = pages.base().as_ptr() as usize;
        let whole = (pages.bytes() / HUGE * HUGE) as u64;
        if whole == 0 {
            return FellBack(format!("{what} is less than one huge page"));
        }
        let Some(mut huge) = told::huge(base) else {
            return FellBack(format!(
                "it cannot be seen (/proc/self/smaps) whether the pages of {what} are huge"
            ));
        };
        let mut refused = String::new();
        if access == Access::Write && huge.pool + huge.transparent < whole {
            if let Err(error) = pages.collapse() {
                refused = format!(" ({})", error.desc());
            }
            huge = told::huge(base).unwrap_or_default();
        }
        if huge.pool >= whole {
            return Granted("huge pages of the pool".into());
        }
        if huge.transparent >= whole {
            return Granted("transparent huge pages".into());
        }
        let found = format!(
            "{what} has {} of them in huge pages",
            huge.pool + huge.transparent
        );
        let Some(pool) = pool else {
            let why = match access {
                Access::Read => "its publisher decides that",
                Access::Write => "those of the pool are mapped at first touch",
            };
            return FellBack(format!("{found}: {why}"));
        };
        let mode = told::transparent().unwrap_or_else(|| "not known".into());
        FellBack(format!(
            "{found}: {pool}; transparent ones: shmem_enabled is {mode}{refused}"
        ))
    }
}

fn why_not_locked(pages: &Pages, error: Errno) -> String {
    match (error, getrlimit(Resource::RLIMIT_MEMLOCK)) {
        (Errno::ENOMEM | Errno::EPERM | Errno::EAGAIN, Ok((limit, _))) => format!(
            "this process may lock {limit} bytes (ulimit -l), and this mapping has {}",
            pages.bytes()
        ),
        (error, _) => error.desc().into(),
    }
}
