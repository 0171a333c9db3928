//! Why a request is refused: a reason for programs and a sentence for people.

use bus_core::Error;
use bus_core::control::{Event, Refusal};

use crate::limits::MAX_WHY;
use crate::reserve::is_exhaustion;

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) kind: Refusal,
    pub(crate) why: String,
}

impl Refused {
    pub(crate) fn new(kind: Refusal, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
        }
    }

    /// The client breaks the protocol.
    pub(crate) fn protocol(why: impl Into<String>) -> Self {
        Self::new(Refusal::Protocol, why)
    }

    /// The broker could not do it, though nothing wrong was asked.
    pub(crate) fn own_fault(error: &Error) -> Self {
        let kind = if is_exhaustion(error) {
            Refusal::Limit
        } else {
            Refusal::Broker
        };
        Self::new(kind, format!("the broker could not do it: {error}"))
    }

    /// The event that says so.
    pub(crate) fn event(&self) -> Event {
        Event::Refused {
            kind: self.kind,
            why: cut(&self.why).to_owned(),
        }
    }
}

/// As much of a sentence as is sent.
pub(crate) fn cut(why: &str) -> &str {
    let longest = MAX_WHY.min(why.len());
    let end = (0..=longest).rfind(|&end| why.is_char_boundary(end));
    &why[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        let why = format!("x{}", "ä".repeat(MAX_WHY));
        let Event::Refused { why, .. } = Refused::new(Refusal::Schema, why).event() else {
            panic!("not a refusal");
        };
        assert_eq!(why.len(), MAX_WHY - 1);
    }
}
