//! One value.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use bus_core::publish::{Payload, to_bytes};
use bus_core::receive::{self, Copied};
use bus_core::schema::{Nesting, Schema};
use rkyv::util::AlignedVec;

use super::DEPTH;
use crate::inlet::Inlet;
use crate::outlet::Outlet;
use crate::{Peer, Result, TopicBuilder};

/// Reads the latest value of a state.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = bus_client::Bus::private("config")?;
/// #[bus_client::message]
/// struct Limits { orders_per_s: u32, note: String }
///
/// let mut writer = bus.state_writer::<Limits>("risk/limits")?;
/// writer.set(&Limits { orders_per_s: 100, note: "start".into() })?;
///
/// let mut limits = bus.state::<Limits>("risk/limits")?; // in any process, at any time
/// let now = limits.get()?.expect("it was set");
/// assert_eq!(now.orders_per_s, 100);
/// # Ok(()) }
/// ```
///
/// `Send`: one thread at a time; each thread that reads opens one of its own.
pub struct State<T: Payload> {
    inlet: Inlet,
    latest: Option<Latest<T>>,
    /// Memory for the next value.
    spare: AlignedVec,
}

/// A value, and which one it is.
struct Latest<T: Payload> {
    /// Of its writer: see [`Inlet::order`].
    writer: u64,
    sequence: u64,
    value: Copied<T>,
}

impl<T: Payload> State<T> {
    pub(crate) fn open(builder: TopicBuilder) -> Result<Self> {
        let builder = builder.for_state(DEPTH, 1).history(1);
        let inlet = builder.open(|b, until| Inlet::open(b, &Schema::of::<T>(), until))?;
        Ok(Self {
            inlet,
            latest: None,
            spare: AlignedVec::new(),
        })
    }

    /// The latest value; none if there never was one. Never waits, and consumes nothing.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where what a writer sent is not valid: the next call goes on behind it, and the value stays
    /// what it was.
    #[inline(always)]
    pub fn get(&mut self) -> Result<Option<&T::Archived>> {
        if !self.inlet.quiet() {
            self.look()?;
        }
        Ok(self.latest.as_ref().map(|latest| &*latest.value))
    }

    #[cold]
    fn look(&mut self) -> Result<()> {
        let (latest, spare, inlet) = (&mut self.latest, &mut self.spare, &self.inlet);
        let take = |core: &receive::Subscriber| match core.poll()? {
            Some(message) => {
                let writer = inlet.order(message.publisher());
                Ok(Some(take(latest, spare, &message, writer)?))
            }
            None => Ok(None),
        };
        let mut take = take;
        super::drain(&self.inlet, || Ok(self.inlet.once(&mut take)?.is_some()))?;
        Ok(())
    }

    /// Waits for a value that is newer than what [`get`](Self::get) gave last, or than the last one waited for; false when the time is
    /// over. With several new ones, the latest counts.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn changed(&mut self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let (latest, spare) = (&mut self.latest, &mut self.spare);
            if super::wait(&self.inlet, left, |message, writer| {
                take(latest, spare, message, writer)
            })? {
                self.look()?;
                return Ok(true);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }

    /// Who writes this state now; none when its writer has ended or was killed. The value stays what it was.
    ///
    /// # Errors
    /// [`Error::Broker`](crate::Error::Broker) where the broker breaks the protocol.
    pub fn writer(&self) -> Result<Option<Peer>> {
        super::writer(&self.inlet)
    }

    /// How many values its writer set before the one that [`get`](Self::get) gave last.
    pub fn sequence(&self) -> Option<u64> {
        self.latest.as_ref().map(|latest| latest.sequence)
    }

    pub(super) fn bytes(&mut self) -> Result<Option<&[u8]>> {
        self.get()?;
        Ok(self.latest.as_ref().map(|latest| latest.value.bytes()))
    }
}

/// Takes a message over if it is newer; whether it is. Among writers that followed each other, what the later one says
/// counts.
fn take<T: Payload>(
    latest: &mut Option<Latest<T>>,
    spare: &mut AlignedVec,
    message: &receive::Message<'_>,
    writer: u64,
) -> bus_core::Result<bool> {
    let sequence = message.sequence();
    match latest {
        Some(latest) if latest.writer > writer => return Ok(false),
        Some(latest) => {
            latest.value.update(message, spare)?;
            (latest.writer, latest.sequence) = (writer, sequence);
        }
        None => {
            *latest = Some(Latest {
                writer,
                sequence,
                value: Copied::of(message)?,
            });
        }
    }
    Ok(true)
}

/// Writes a state. There is one writer at a time; the value stays when it ends.
pub struct StateWriter<T: Payload> {
    outlet: Outlet,
    nesting: Nesting,
    _writes: PhantomData<fn(&T)>,
}

impl<T: Payload> StateWriter<T> {
    pub(crate) fn open(builder: TopicBuilder) -> Result<Self> {
        let mut before = State::<T>::open(builder.clone())?;
        let builder = builder.for_state(DEPTH, 1);
        let mut outlet = builder.open(|b, until| Outlet::open(b, &Schema::of::<T>(), until))?;
        outlet.refuse_losses();
        // Who comes later hears of this writer's ring, perhaps no more of the one before.
        if let Some(bytes) = before.bytes()? {
            outlet.send_kept(bytes)?;
        }
        Ok(Self {
            outlet,
            nesting: Nesting::of::<T>(),
            _writes: PhantomData,
        })
    }

    /// Sets the value. Never waits. Returns how many were set before by this writer, one that it took over from another included.
    ///
    /// # Errors
    /// [`Error::Topic`](crate::Error::Topic) where it is too large or cannot be serialised, [`Error::Full`](crate::Error::Full) where
    /// readers protect so many old values that there is no room; the value stays what it was.
    pub fn set(&mut self, value: &T) -> Result<u64> {
        let limit = self.outlet.settings().max_payload as usize;
        let bytes = to_bytes(value, limit, self.nesting).map_err(|e| self.outlet.wrap(e))?;
        self.outlet.send_kept(&bytes)
    }

    /// Who reads this state now.
    ///
    /// # Errors
    /// [`Error::Broker`](crate::Error::Broker) where the broker breaks the protocol.
    pub fn readers(&mut self) -> Result<Vec<Peer>> {
        self.outlet.subscribers()
    }
}
