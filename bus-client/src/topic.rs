//! Settings of a topic and of a handle, then the handle.

use std::thread;
use std::time::{Duration, Instant};

use bus_core::control::Watched;
use bus_core::memory::placement::Placement;
use bus_core::publish::Payload;
use bus_core::schema::Schema;
use bus_core::{Delivery, Settings, TopicName};

use crate::inlet::Inlet;
use crate::outlet::Outlet;
use crate::session::AGAIN;
use crate::{Bus, BytesPublisher, BytesSubscriber, Error, Publisher, Result, Subscriber};

/// How long a handle waits for a broker: one that leaves its path, or is started again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A topic about to be opened. What the broker's `bus.toml` declares of it (`docs/policy.md`) is decided; of the rest, the first publisher decides
/// what is set here. Who asks for something else is refused, and takes what is left open as it is.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = bus_client::Bus::private("camera")?;
/// let mut frames = bus.topic("camera/left")?.depth(16).max_payload(8 << 20).bytes_publisher()?;
/// frames.send(&[0; 1 << 20])?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct TopicBuilder {
    pub(crate) bus: Bus,
    pub(crate) topic: TopicName,
    pub(crate) settings: Settings,
    pub(crate) spin: Duration,
    pub(crate) history: u32,
    pub(crate) place: Option<Place>,
    pub(crate) ends: bool,
    pub(crate) placement: Placement,
}

/// What a subscriber is opened for, if for a watch.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) watched: Watched,
    /// It was kept since the topic's first message.
    pub(crate) whole: bool,
}

impl TopicBuilder {
    pub(crate) fn new(bus: Bus, topic: TopicName) -> Self {
        let spin = bus.spin;
        Self {
            bus,
            topic,
            settings: Settings::default(),
            spin,
            history: 0,
            place: None,
            ends: false,
            placement: Placement::default(),
        }
    }

    /// Topic: slots in each publisher's ring: a power of two, 2 to 16,777,216. By default what fills 512 KiB.
    pub fn depth(mut self, slots: u32) -> Self {
        self.settings.depth = Some(slots);
        self
    }

    /// Topic: bytes of a slot: a multiple of 64, 64 to 65,536. Payloads of up to `stride - 16` bytes lie in the slot
    /// itself. By default what the fixed part of the type needs.
    pub fn stride(mut self, bytes: u32) -> Self {
        self.settings.stride = Some(bytes);
        self
    }

    /// Topic: longest payload in bytes, up to 1 GiB. By default the type's size, or 64 KiB where that varies.
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.settings.max_payload = Some(bytes);
        self
    }

    /// Topic: messages that each ring keeps for subscribers to come, 1 (the default) to `depth - 1`.
    ///
    /// They lie in the ring's memory, so the [arena](Self::arena) limits their bytes. By default an arena has
    /// room for 30 messages of any length, and for 256 bytes a message where more are kept. Where the kept
    /// messages take all of it, sending fails with [`CoreError::Kept`](crate::CoreError::Kept): no kept
    /// message is lost. [`max_payload`](Self::max_payload) with the longest length that you send makes an arena
    /// that never is too small.
    pub fn keep(mut self, messages: u32) -> Self {
        self.settings.keep = Some(messages);
        self
    }

    /// Topic: bytes of each publisher's arena, where payloads lie that are longer than a slot. A multiple of 64,
    /// at least 2 of the longest payloads, or 3 on a lossy or evicting topic.
    ///
    /// The default depends on what is known of the payloads:
    ///
    /// | payloads | arena by default |
    /// | --- | --- |
    /// | all fit a slot | none; 128 KiB or more on a lossy or evicting topic |
    /// | a type of a fixed size, or [`max_payload`](Self::max_payload) is set | as many of the longest as are kept, and 2 more |
    /// | of any length | the same for 64 KiB, but not more than 2 MiB or 256 bytes for each message that is kept |
    ///
    /// Lossy and evicting topics have room for what may be [held](Self::held) besides. All defaults are 512 KiB
    /// at least where an arena is needed.
    pub fn arena(mut self, bytes: u64) -> Self {
        self.settings.arena = Some(bytes);
        self
    }

    /// Topic: what to do about a subscriber that does not keep up. By default publishers wait for it.
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.settings.delivery = Some(delivery);
        self
    }

    /// Topic: latest wins, [`Delivery::Lossy`].
    pub fn lossy(self) -> Self {
        self.delivery(Delivery::Lossy)
    }

    /// Topic: messages of one publisher that a subscriber may hold at a time. By default the depth; on lossy and evicting topics 16, or 4
    /// where payloads are longer than a slot.
    pub fn held(mut self, messages: u32) -> Self {
        self.settings.held = Some(messages);
        self
    }

    /// Topic: rings of ended publishers that the broker keeps for subscribers that come later and ask for [history](Self::history),
    /// 0 (the default) to 60; each with the memory that it has. It does not matter how a publisher ended, nor whether anybody was there.
    ///
    /// The oldest goes first where there are more, or where a new publisher needs its place. Such a topic stays when nobody has it
    /// open; of more than 256 of those the longest idle goes, and a publisher that comes with another type or other settings starts
    /// one anew. All ends with the broker: with an embedded one, with the process that hosts it.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = bus_client::Bus::private("job")?;
    /// let mut results = bus.topic("results")?.keep(100).retain(1).publisher::<u64>()?;
    /// results.send(&42)?;
    /// drop(results);
    /// let late = bus.topic("results")?.history(100).subscriber::<u64>()?;
    /// assert_eq!(*late.recv()?, 42);
    /// # Ok(()) }
    /// ```
    pub fn retain(mut self, rings: u32) -> Self {
        self.settings.retain = Some(rings);
        self
    }

    /// Topic: publishers at a time, 1 to 1,024; 60 by default. A subscriber has a cache line for each, and a
    /// blocking call of one that follows more than 125 sleeps on a descriptor, which costs two system calls more. One
    /// publisher more is refused, with the names of who is there.
    pub fn publishers(mut self, count: u32) -> Self {
        self.settings.publishers = Some(count);
        self
    }

    /// Handle: how long it spins before it sleeps, at most; see [`BusBuilder::spin`](crate::BusBuilder::spin).
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// Subscriber: starts this many messages back in the ring of each publisher that is there, and in those that the topic
    /// [retains](Self::retain); with all that there are where a ring has fewer. The live messages follow without a gap. 0 by default.
    ///
    /// It is at most what the topic [keeps](Self::keep): opening with more is [refused](Error::Refused). Where the topic is not there
    /// yet and `keep` is left open, it keeps this many.
    pub fn history(mut self, messages: u32) -> Self {
        self.history = messages;
        self
    }

    /// Subscriber: receiving ends with [`Error::Ended`](crate::Error::Ended) when all publishers that it followed have ended, and at
    /// least one was there. By default it waits for the next publisher.
    pub fn end_with_publishers(mut self) -> Self {
        self.ends = true;
        self
    }

    /// Handle: pages of 2 MiB for a publisher's ring of 2 MiB or more: of the machine's pool (`vm.nr_hugepages`) if it has enough of
    /// them free, else transparent ones, else plain pages. A subscriber's report says whether the rings that it maps have them.
    ///
    /// A wish about memory that cannot be met fails nothing: the handle's `placement()` says what it got, and why, and so does one warning in the
    /// log. `docs/placement.md` has what each of them was measured to do.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = bus_client::Bus::private("camera")?;
    /// let topic = bus.topic("camera/left")?.max_payload(1 << 20).huge_pages();
    /// let frames = topic.bytes_publisher()?;
    /// match frames.placement().huge_pages.fell_back() {
    ///     None => println!("{}", frames.placement()), // huge pages: transparent huge pages; …
    ///     Some(why) => println!("plain pages: {why}"),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn huge_pages(mut self) -> Self {
        self.placement.huge_pages = true;
        self
    }

    /// Handle: whether it maps every page when it is opened, so that no first touch costs a page fault. `true` by default. Without it,
    /// opening takes less time where rings are large. A ring's memory is taken when its publisher is opened, either way.
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.placement.prefault = prefault;
        self
    }

    /// Handle: locks in memory what it makes and maps, as far as `ulimit -l` lets it: see [`huge_pages`](Self::huge_pages).
    pub fn lock_memory(mut self) -> Self {
        self.placement.lock = true;
        self
    }

    /// Handle: takes the memory of a publisher's ring, or of a subscriber's cursors, from this NUMA node, as far as it has some: see
    /// [`huge_pages`](Self::huge_pages). That a node does not exist is an error when the handle is opened.
    pub fn numa_node(mut self, node: u32) -> Self {
        self.placement.node = Some(node);
        self
    }

    /// Opens a publisher of `T`.
    ///
    /// # Errors
    /// As for [`Bus::publisher`].
    pub fn publisher<T: Payload>(self) -> Result<Publisher<T>> {
        let outlet = self.open(|b, until| Outlet::open(b, &Schema::of::<T>(), until))?;
        Ok(Publisher::new(outlet))
    }

    /// Opens a subscriber to `T`.
    ///
    /// # Errors
    /// As for [`Bus::subscriber`].
    pub fn subscriber<T: Payload>(self) -> Result<Subscriber<T>> {
        let inlet = self.open(|b, until| Inlet::open(b, &Schema::of::<T>(), until))?;
        Ok(Subscriber::new(inlet))
    }

    /// Opens a publisher of raw bytes.
    ///
    /// # Errors
    /// As for [`Bus::publisher`].
    pub fn bytes_publisher(self) -> Result<BytesPublisher> {
        let outlet = self.open(|b, until| Outlet::open(b, &Schema::bytes(), until))?;
        Ok(BytesPublisher::new(outlet))
    }

    /// Opens a subscriber to raw bytes.
    ///
    /// # Errors
    /// As for [`Bus::subscriber`].
    pub fn bytes_subscriber(self) -> Result<BytesSubscriber> {
        let inlet = self.open(|b, until| Inlet::open(b, &Schema::bytes(), until))?;
        Ok(BytesSubscriber::new(inlet))
    }

    /// Who meets a broker on its way out turns to the next one.
    pub(crate) fn open<H>(&self, open: impl Fn(&Self, Instant) -> Result<H>) -> Result<H> {
        self.placement.check()?;
        let deadline = Instant::now() + PATIENCE;
        let mut met = None;
        loop {
            match open(self, deadline) {
                Err(error @ Error::Disconnected { .. }) if Instant::now() < deadline => {
                    met = Some(error);
                    thread::sleep(AGAIN);
                }
                // No other came: the one that was there says more.
                Err(error @ Error::Broker { .. }) => return Err(met.unwrap_or(error)),
                opened => return opened,
            }
        }
    }
}
