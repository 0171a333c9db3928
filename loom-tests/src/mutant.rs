//! Which site is weakened in this process: none, or one for its whole life.
//!
//! Set before the first model starts, never changed: a model must behave the same in every execution.

use std::sync::OnceLock;

use bus_core::backend::{Site, site};

static WEAKENED: OnceLock<Site> = OnceLock::new();

/// Weakens the site of this name from now on. False where there is no such site, or another is weakened.
pub fn weaken(name: &str) -> bool {
    (site::ALL.iter())
        .find(|site| site.name == name)
        .is_some_and(|site| WEAKENED.set(*site).is_ok())
}

/// Whether this site is the weakened one.
pub fn is_weak(site: Site) -> bool {
    WEAKENED.get() == Some(&site)
}
