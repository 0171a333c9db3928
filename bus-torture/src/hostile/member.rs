//! A handle that speaks the control protocol itself, word by word, with a segment that it writes as it likes. Until it joined it is as honest as
//! any.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bus_core::control::{Connection, Event, PROTOCOL_VERSIONS, Request, Role, SESSION, Secret};
use bus_core::memory::layout::{READER_MAGIC, RING_MAGIC};
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::schema::Schema;
use bus_core::{Settings, TopicSettings};

use crate::pen::Pen;

/// A publisher or subscriber.
#[derive(Debug)]
pub struct Member {
    /// Its connection.
    pub connection: Connection,
    /// What the topic is like.
    pub settings: TopicSettings,
    /// The index of its ring, of a publisher.
    pub index: u16,
    /// The topic's registry.
    pub registry: OwnedFd,
    /// Its own segment.
    pub pen: Pen,
    /// What it was told before it had joined, in order.
    pub told: Vec<(Event, Vec<OwnedFd>)>,
}

/// The handle of a session that these members have.
pub const HANDLE: u32 = 1;

/// The first message of a session, as an honest client says it; each with a secret of its own.
#[must_use]
pub fn hello(reclaims: u32) -> Request {
    Request::Hello {
        versions: PROTOCOL_VERSIONS,
        features: 0,
        client: "hostile".into(),
        secret: Secret(fastrand::u64(..), fastrand::u64(..)),
        reclaims,
        generation: 0,
    }
}

/// The first request of a handle.
pub fn open(role: Role, topic: &str, settings: Settings) -> Request {
    Request::Open {
        role,
        topic: topic.into(),
        schema: Schema::bytes(),
        settings,
        history: 0,
        watched: None,
    }
}

/// The next event about the handle. Descriptors are acknowledged; what is about the session is passed over.
fn next(connection: &Connection, deadline: Option<Instant>) -> Result<(Event, Vec<OwnedFd>)> {
    loop {
        let frame = connection.recv::<Event>(deadline)?;
        let descriptors = frame.descriptors.len() as u32;
        if descriptors > 0 {
            connection.send(SESSION, &Request::Received { descriptors }, &[])?;
        }
        if frame.handle == HANDLE || matches!(frame.message, Event::Refused { .. }) {
            return Ok((frame.message, frame.descriptors));
        }
    }
}

impl Member {
    /// Joins a topic within `patience`.
    ///
    /// # Errors
    /// The broker does not let it, or not in time.
    pub fn join(
        path: &Path,
        role: Role,
        topic: &str,
        settings: Settings,
        patience: Duration,
    ) -> Result<Self> {
        let deadline = Some(Instant::now() + patience);
        let connection = Connection::connect(path)?;
        connection.send(SESSION, &hello(0), &[])?;
        connection.send(HANDLE, &open(role, topic, settings), &[])?;
        let (event, descriptors) = next(&connection, deadline).context("opening")?;
        let Event::Opened {
            settings, index, ..
        } = event
        else {
            bail!("not opened: {event:?}");
        };
        let [registry] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|all| anyhow::anyhow!("{} descriptors instead of a registry", all.len()))?;
        let pen = match role {
            Role::Publisher => Pen::create(RING_MAGIC, ring_bytes(&settings))?,
            Role::Subscriber => Pen::create(READER_MAGIC, reader_bytes(&settings))?,
        };
        connection.send(HANDLE, &Request::Join {}, &[pen.as_fd()])?;
        let mut told = Vec::new();
        loop {
            match next(&connection, deadline).context("joining")? {
                (Event::Joined { .. }, _) => break,
                (event @ Event::Refused { .. }, _) => bail!("not joined: {event:?}"),
                other => told.push(other),
            }
        }
        Ok(Self {
            connection,
            settings,
            index,
            registry,
            pen,
            told,
        })
    }
}
