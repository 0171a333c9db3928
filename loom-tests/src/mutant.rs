//! What is changed in this process: nothing, or one place of the protocol for its whole life.
//!
//! Set before the first model starts, never changed: a model must behave the same in every execution.

use std::sync::OnceLock;

use bus_core::backend::{Site, WakeUp, site};

/// One change of the protocol, which some model must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The access at this site is relaxed, or its fence is left out.
    Weak(Site),
    /// This wake-up is left out.
    Silent(WakeUp),
}

impl Mutant {
    /// All mutants: every ordering and fence first, then every wake-up.
    pub fn all() -> impl Iterator<Item = Self> {
        let weak = site::ALL.iter().copied().map(Self::Weak);
        weak.chain(site::WAKE_UPS.iter().copied().map(Self::Silent))
    }

    /// The mutant of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|mutant| mutant.name() == name)
    }

    /// Its name: that of the site, or of the wake-up.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weak(site) => site.name,
            Self::Silent(call) => call.name,
        }
    }

    /// What is taken away.
    pub fn loses(self) -> String {
        match self {
            Self::Weak(site) => format!("{:?}", site.ordering),
            Self::Silent(_) => "wake-up".into(),
        }
    }
}

static MUTANT: OnceLock<Mutant> = OnceLock::new();

/// Changes the protocol from now on. False where it is changed already.
pub fn become_mutant(mutant: Mutant) -> bool {
    MUTANT.set(mutant).is_ok()
}

/// Whether the access or fence at this site is weakened.
pub fn is_weak(site: Site) -> bool {
    MUTANT.get() == Some(&Mutant::Weak(site))
}

/// Whether this wake-up is left out.
pub fn is_silent(call: WakeUp) -> bool {
    MUTANT.get() == Some(&Mutant::Silent(call))
}
