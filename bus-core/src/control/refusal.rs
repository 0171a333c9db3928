//! Why the broker refuses, as a number on the wire: a client may meet a broker that knows more reasons.

use rkyv::rancor::Fallible;
use rkyv::rend::u16_le;
use rkyv::{Archive, Deserialize, Place, Serialize};

/// Why the broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A name breaks the rules.
    BadName,
    /// A setting is outside its limits.
    BadSetting,
    /// The topic has other settings.
    Settings,
    /// The topic carries another type, or the description of the type is not acceptable.
    Schema,
    /// A limit is reached. Asked again later, the broker may agree.
    Limit,
    /// A segment is not what it should be.
    Segment,
    /// A request breaks the protocol.
    Protocol,
    /// The policy does not allow it to this user.
    NotAllowed,
    /// The topic that a watch was told of is closed by now.
    Gone,
    /// The handle reclaims too late: members have joined meanwhile that it would have had to know. Final.
    Fenced,
    /// The handle reclaims what is not its own, or is taken. Final.
    Unknown,
    /// The broker itself could not do it. Asked again later, it may be able to.
    Broker,
    /// The two sides have no version of the protocol, or no needed feature, in common.
    Version,
    /// A reason that this version does not know.
    Other(u16),
}

/// The reasons, by their numbers on the wire from 1 up. A number is never given to another reason.
const REASONS: [Refusal; 13] = [
    Refusal::BadName,
    Refusal::BadSetting,
    Refusal::Settings,
    Refusal::Schema,
    Refusal::Limit,
    Refusal::Segment,
    Refusal::Protocol,
    Refusal::NotAllowed,
    Refusal::Gone,
    Refusal::Fenced,
    Refusal::Unknown,
    Refusal::Broker,
    Refusal::Version,
];

impl Refusal {
    fn code(self) -> u16 {
        match self {
            Self::Other(code) => code,
            known => {
                let at = REASONS.iter().position(|reason| *reason == known);
                at.map_or(0, |at| at as u16 + 1)
            }
        }
    }

    fn from_code(code: u16) -> Self {
        let known = usize::from(code).checked_sub(1);
        let known = known.and_then(|at| REASONS.get(at)).copied();
        known.unwrap_or(Self::Other(code))
    }

    /// Whether the same request may be granted later, with nothing changed by the client.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Limit | Self::Broker)
    }
}

impl Archive for Refusal {
    type Archived = u16_le;
    type Resolver = ();

    fn resolve(&self, (): Self::Resolver, out: Place<Self::Archived>) {
        out.write(u16_le::from_native(self.code()));
    }
}

impl<S: Fallible + ?Sized> Serialize<S> for Refusal {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<D: Fallible + ?Sized> Deserialize<Refusal, D> for u16_le {
    fn deserialize(&self, _: &mut D) -> Result<Refusal, D::Error> {
        Ok(Refusal::from_code(self.to_native()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Event, Message};

    #[test]
    fn every_reason_comes_out_as_it_went_in() {
        for kind in REASONS.into_iter().chain([Refusal::Other(4711)]) {
            let event = Event::Refused {
                kind,
                why: String::new(),
            };
            let packet = event.pack(1).unwrap();
            let back = Event::unpack(packet.as_bytes()).unwrap().message;
            assert_eq!(back, Some(event));
        }
    }
}
