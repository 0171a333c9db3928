//! Bus through a selector: a subscriber that waits for many subscriptions at once, of which one has messages.
//!
//! Promises: as [`Bus`], but that a subscriber waits in `Selector::wait`, with as many idle subscriptions beside
//! its own as the job says, each on a topic of its own.

use crate::bus::{Bus, BusPublisher, connect};
use crate::payload::{Payload, Tally};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Context, Result};
use bus_client::{BytesSubscriber, Selector};
use std::rc::Rc;
use std::time::Duration;

/// Bus through a selector, as a transport.
#[derive(Debug)]
pub enum Select {}

impl Transport for Select {
    type Publisher = SelectPublisher;
    type Subscriber = SelectSubscriber;

    fn publisher(place: &Place<'_>) -> Result<SelectPublisher> {
        Ok(SelectPublisher(Bus::publisher(place)?))
    }

    fn subscriber(place: &Place<'_>) -> Result<SelectSubscriber> {
        let socket = place
            .socket
            .context("the side was not told where the broker listens")?;
        let bus = connect(socket, place.job.spin_us)?;
        let mut selector = Selector::new()?;
        if let Some(us) = place.job.spin_us {
            selector = selector.spin(Duration::from_micros(us));
        }
        let idle = (0..place.job.idle)
            .map(|n| {
                let topic = format!("{}/idle-{}-{n}", place.name, place.link);
                let topic = bus.topic(topic)?.depth(2);
                let subscriber = Rc::new(topic.bytes_subscriber()?);
                selector.add(Rc::downgrade(&subscriber))?;
                Ok(subscriber)
            })
            .collect::<Result<_>>()?;
        let from = Rc::new(Bus::subscriber(place)?.into_inner());
        selector.add(Rc::downgrade(&from))?;
        Ok(SelectSubscriber {
            selector,
            from,
            _idle: idle,
        })
    }
}

/// A publisher's end: bus, as it is.
pub struct SelectPublisher(BusPublisher);

impl Publish for SelectPublisher {
    #[inline]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        self.0.publish(payload, batch)
    }
}

/// A subscriber's end.
pub struct SelectSubscriber {
    selector: Selector<'static>,
    from: Rc<BytesSubscriber>,
    _idle: Vec<Rc<BytesSubscriber>>,
}

impl Receive for SelectSubscriber {
    #[inline]
    fn receive(&mut self, limit: usize, tally: &mut Tally) -> Result<()> {
        for received in 0..limit {
            loop {
                if let Some(message) = self.from.try_recv()? {
                    tally.take(message.bytes());
                    break;
                }
                if received > 0 {
                    return Ok(());
                }
                self.selector.wait()?;
            }
        }
        Ok(())
    }
}
