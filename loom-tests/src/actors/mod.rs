//! Who acts in a model: the broker, a writer, a subscriber. Each does with the protocol what its owner in the shipped bus
//! does, and checks what it is given.

mod broker;
mod subscriber;
mod writer;

pub use broker::Broker;
pub use subscriber::{Held, Subscriber};
pub use writer::{Shape, Writer};
