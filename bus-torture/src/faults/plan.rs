//! Which faults are tried, in which order, and what is covered by them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fastrand::Rng;
use nix::errno::Errno;

use super::call::{Call, ERRORS, Site};
use super::probe::Fault;
use crate::kill_points::place::Places;

/// How often a call of one site is refused at most: loops make the same call again and again.
const OFTEN: u32 = 3;

/// The faults of one script.
pub struct Plan {
    /// In the order in which they are tried: all sites first, then the same ones at later calls.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// For the calls that were seen.
    #[must_use]
    pub fn new(calls: &[(Site, Call)], only: Option<u32>, random: &mut Rng) -> Self {
        let mut made: HashMap<Site, u32> = HashMap::new();
        let mut faults = Vec::new();
        for (site, call) in calls {
            let after = made.entry(*site).or_default();
            if *after < OFTEN {
                let fault = |&error: &Errno| Fault {
                    site: *site,
                    after: *after,
                    error,
                };
                faults.extend(call.errors().iter().map(fault));
            }
            *after += 1;
        }
        if let Some(only) = only {
            faults.retain(|fault| fault.number() == only);
        }
        random.shuffle(&mut faults);
        faults.sort_by_key(|fault| fault.after);
        Self { faults }
    }
}

/// What was covered.
#[derive(Default)]
pub struct Coverage {
    sites: BTreeSet<Site>,
    faulty: BTreeSet<Site>,
    injected: BTreeMap<&'static str, u64>,
    tried: BTreeSet<Site>,
    places: Places,
}

impl Coverage {
    /// Addresses are named by these from now on.
    pub fn know(&mut self, places: Places) {
        self.places = places;
    }

    /// These calls were seen.
    pub fn sites(&mut self, calls: &[(Site, Call)]) {
        for (site, call) in calls {
            self.sites.insert(*site);
            if !call.errors().is_empty() {
                self.faulty.insert(*site);
            }
        }
    }

    /// This fault was injected.
    pub fn tried(&mut self, fault: Fault) {
        self.tried.insert(fault.site);
        *self.injected.entry(name(fault.error)).or_default() += 1;
    }

    /// A site, for a reader.
    #[must_use]
    pub fn name(&self, site: Site) -> String {
        let callers = site.returns[1..].iter().filter(|address| **address != 0);
        // A return address is that of the next instruction.
        let callers: Vec<_> = callers
            .map(|address| self.places.name(address - 1))
            .collect();
        format!(
            "system call {} from {}",
            site.number,
            callers.join(", from ")
        )
    }

    /// Call sites seen, those that may fail, those that did, and how often each error was injected.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, u64)> {
        let mut counts = vec![
            ("call_sites".to_owned(), self.sites.len() as u64),
            ("call_sites.may_fail".to_owned(), self.faulty.len() as u64),
            ("call_sites.tried".to_owned(), self.tried.len() as u64),
        ];
        counts.extend(ERRORS.map(|error| {
            let injected = self.injected.get(name(error)).copied();
            (format!("injected.{}", name(error)), injected.unwrap_or(0))
        }));
        counts
    }
}

fn name(error: Errno) -> &'static str {
    match error {
        Errno::ENOMEM => "ENOMEM",
        Errno::EMFILE => "EMFILE",
        Errno::ENFILE => "ENFILE",
        Errno::EINTR => "EINTR",
        Errno::EAGAIN => "EAGAIN",
        Errno::ECONNRESET => "ECONNRESET",
        Errno::EPIPE => "EPIPE",
        _ => "other",
    }
}
