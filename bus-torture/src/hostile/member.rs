//! A handle that speaks the control protocol itself, word by word, with a segment that it writes as it likes. Until it joined it is as honest as
//! any.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bus_core::control::{Connection, Event, Request, Role};
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

/// The first request of a handle.
pub fn open(role: Role, topic: &str, settings: Settings) -> Request {
    Request::Open {
        client: "hostile".into(),
        role,
        topic: topic.into(),
        schema: Schema::bytes(),
        settings,
        history: 0,
        watched: None,
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
        connection.send(&open(role, topic, settings), &[])?;
        let (event, descriptors) = connection.recv(deadline).context("opening")?;
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
        connection.send(&Request::Join, &[pen.as_fd()])?;
        let mut told = Vec::new();
        loop {
            match connection.recv(deadline).context("joining")? {
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
