//! The census: a file beside the socket in which the broker writes down who takes part, for the broker that comes after it.
//!
//! ```text
//!  PATH.members                       a record, 256 bytes
//!  +0     header                      +0    kind      u8    0 free, 1 publisher, 2 subscriber, 3 dismissed, 4 watch
//!  +256   record                      +1    state     u8    0 here, 1 late, 2 gone
//!  +512   record                      +2    index     u16   of a publisher's ring
//!  ...                                +4    pid       u32
//!                                     +8    start     u64   of the process, in ticks
//!  header, 256 bytes                  +16   id        u64
//!  +0    "BusM", 0, 0, 0, 0           +24   watch     u64   that a subscriber is opened for, or 0
//!  +8    format       u32             +32   uid       u32
//!  +12   protocol     u16             +36   length    u8    of the name
//!  +16   incarnation  u64             +40   digest    16 B  of schema and settings
//!  +24   key          16 B            +56   name      127 B of the topic, or the pattern
//!  +40   world        24 B            +240  check     16 B  of all before it
//!  +240  check        16 B
//! ```
//! Promises: a record is one `pwrite`, so a kill leaves the old one or the new one; one that makes no sense is passed over; no incarnation comes
//! twice while any member of an earlier one is written down, and so no number of a member does. What is written down is who has joined:
//! before anybody is told of it, and until everybody was told that it left. A clean end with nobody written down leaves no file.
//!
//! It asks for the lock of the path. It does not survive the machine, and need not: no member does. Checks are made with a secret key, so that nobody
//! can choose a type that looks like another.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bus_core::TopicSettings;
use bus_core::control::{PROTOCOL_VERSION, Role};
use bus_core::fork::{Birth, Unshared};
use bus_core::schema::Schema;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::limits::{MAX_PUBLISHERS, MAX_RECORDS};
use crate::{Error, Result, process};

/// Bytes of the header and of each record.
const RECORD: usize = 256;
const WRITING: &str = "cannot write down who takes part, in the list of members beside the socket";
const MAGIC: [u8; 8] = *b"BusM\0\0\0\0";
/// Of this file. Records of another one are not read; the incarnation is where it is in all of them.
const FORMAT: u32 = 1;
/// Bytes ahead of the check.
const CHECKED: usize = 240;
const NAME: usize = 56;
const LONGEST_NAME: usize = 127;
/// Numbers of members take half of 64 bits, one of which tells their tokens apart.
const INCARNATIONS: u64 = 1 << 30;

/// What somebody who is written down is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Publisher,
    Subscriber,
    /// A subscriber whose topic was closed.
    Dismissed,
    Watch,
}

impl Kind {
    /// What it does on a topic that is open, if that is what it is.
    pub(crate) fn role(self) -> Option<Role> {
        match self {
            Self::Publisher => Some(Role::Publisher),
            Self::Subscriber => Some(Role::Subscriber),
            Self::Dismissed | Self::Watch => None,
        }
    }
}

impl From<Role> for Kind {
    fn from(role: Role) -> Self {
        match role {
            Role::Publisher => Self::Publisher,
            Role::Subscriber => Self::Subscriber,
        }
    }
}

/// What the next broker may expect of who is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It comes back.
    Here,
    /// Others have joined that it would have had to know: it may not come back.
    Late,
    /// It has left, and not everybody may have been told.
    Gone,
}

/// A digest of a type and settings.
pub(crate) type Digest = [u8; 16];

/// Somebody who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) index: u16,
    pub(crate) watch: Option<u64>,
    pub(crate) pid: u32,
    pub(crate) start: u64,
    pub(crate) uid: u32,
    pub(crate) digest: Digest,
    /// Of its topic, or its pattern.
    pub(crate) name: String,
}

/// The file, and where in it everybody is.
#[derive(Debug)]
pub(crate) struct Census {
    path: PathBuf,
    file: Unshared<File>,
    /// A fork of this process removes nothing.
    birth: Birth,
    incarnation: u64,
    key: [u8; 16],
    /// Who is written down, each with its place.
    entries: HashMap<u64, (u64, Record)>,
    free: Vec<u64>,
    /// Places so far.
    length: u64,
}

impl Census {
    /// Opens the census of the broker at `socket`, or makes one; begins a new incarnation, later than `known`. Returns also who is written down.
    ///
    /// # Errors
    /// [`Error::Foreign`] if something else is there, [`Error::Listen`] if it cannot be read or written.
    pub(crate) fn open(socket: &Path, known: u64) -> Result<(Self, Vec<Record>)> {
        let path = beside(socket);
        let failed = |what, source: io::Error| Error::Listen {
            path: socket.to_owned(),
            what,
            source,
        };
        let file =
            Unshared::new(|| open(&path)).map_err(|e| failed("opening its list of members", e))?;
        if let Some(why) = foreign(&file) {
            return Err(Error::Foreign { path, why });
        }
        let mut header = [0; RECORD];
        let read = read_at(&file, &mut header, 0);
        let read = read.map_err(|e| failed("reading its list of members", e))?;
        let blank = header[..read].iter().all(|byte| *byte == 0);
        if !blank && header[..MAGIC.len()] != MAGIC {
            let why = "there is a file that is no list of members";
            return Err(Error::Foreign { path, why });
        }
        let world = process::world();
        let old = Header::read(&header);
        let before = old.as_ref().map_or(0, |old| old.incarnation);
        let mut census = Self {
            path,
            file,
            birth: Birth::here(),
            incarnation: before.max(known) % INCARNATIONS + 1,
            key: old.as_ref().map_or_else(secret, |old| old.key),
            entries: HashMap::new(),
            free: Vec::new(),
            length: 0,
        };
        let records = match old {
            Some(old) if old.is_ours(&world) => census.read(),
            _ => Ok(Vec::new()),
        };
        let records = records.map_err(|e| failed("reading its list of members", e))?;
        let begun = census.begin(&world);
        begun.map_err(|e| failed("writing its list of members", e))?;
        Ok((census, records))
    }

    /// Whether there is one for the broker at `socket`.
    pub(crate) fn is_there(socket: &Path) -> bool {
        beside(socket).symlink_metadata().is_ok()
    }

    /// Counts the brokers that this path has had; never 0, and less than 2^31.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What tells a type with its settings from another. Only a broker that has this file can say it.
    pub(crate) fn digest(
        &self,
        schema: &Schema,
        settings: Option<&TopicSettings>,
    ) -> bus_core::Result<Digest> {
        let wrong = |e: rkyv::rancor::Error| bus_core::Error::Control(e.to_string());
        let schema = rkyv::to_bytes(schema).map_err(wrong)?;
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u64(schema.len() as u64);
        hasher.write(&schema);
        if let Some(settings) = settings {
            hasher.write(&rkyv::to_bytes(settings).map_err(wrong)?);
        }
        Ok(hasher.finish128().as_bytes())
    }

    /// Writes somebody down.
    ///
    /// # Errors
    /// [`bus_core::Error::Io`]: it is not written down, and may not take part.
    pub(crate) fn write(&mut self, record: Record) -> bus_core::Result<()> {
        let known = self.entries.get(&record.id).map(|(place, _)| *place);
        let place = known.or(self.free.last().copied()).unwrap_or(self.length);
        let written = write_at(&self.file, &record.pack(&self.key), offset(place));
        written.map_err(|e| bus_core::Error::io(WRITING, e))?;
        if known.is_none() && self.free.pop().is_none() {
            self.length += 1;
        }
        self.entries.insert(record.id, (place, record));
        Ok(())
    }

    /// What is written down under this number.
    pub(crate) fn get(&self, id: u64) -> Option<&Record> {
        self.entries.get(&id).map(|(_, record)| record)
    }

    /// Writes down what has changed about somebody who is written down; the new record, if there is one. Where the file cannot be written
    /// the next broker finds the old one.
    pub(crate) fn change(&mut self, id: u64, change: impl FnOnce(&mut Record)) -> Option<Record> {
        let mut record = self.entries.get(&id)?.1.clone();
        change(&mut record);
        if let Err(error) = self.write(record.clone()) {
            tracing::error!(id, path = %self.path.display(), %error, "an old record stays");
        }
        Some(record)
    }

    /// Strikes somebody out. Where that fails the next broker waits for them in vain.
    pub(crate) fn strike(&mut self, id: u64) {
        let Some((place, _)) = self.entries.remove(&id) else {
            return;
        };
        match write_at(&self.file, &[0; RECORD], offset(place)) {
            Ok(()) => self.free.push(place),
            Err(error) => {
                tracing::error!(id, path = %self.path.display(), %error, "an old record stays");
            }
        }
    }

    /// Who is written down and makes sense; everything else is free.
    fn read(&mut self) -> io::Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        let mut indices = std::collections::HashSet::new();
        let mut bytes = [0; RECORD];
        while self.length < MAX_RECORDS
            && read_at(&self.file, &mut bytes, offset(self.length))? == RECORD
        {
            let place = self.length;
            self.length += 1;
            let record = Record::unpack(&bytes, &self.key);
            // Two with one number, or one index, contradict each other: the first is as good as the second.
            let record = record.filter(|record| {
                !self.entries.contains_key(&record.id)
                    && (record.kind != Kind::Publisher
                        || indices.insert((record.name.clone(), record.index)))
            });
            match record {
                Some(record) => {
                    self.entries.insert(record.id, (place, record.clone()));
                    records.push(record);
                }
                None => self.free.push(place),
            }
        }
        Ok(records)
    }

    /// Writes the header of this incarnation; cuts off what is not read.
    fn begin(&self, world: &[u8; 24]) -> io::Result<()> {
        let header = Header {
            format: FORMAT,
            protocol: PROTOCOL_VERSION,
            incarnation: self.incarnation,
            key: self.key,
            world: *world,
        };
        write_at(&self.file, &header.pack(), 0)?;
        self.file.set_len(offset(self.length))
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        if self.entries.is_empty()
            && self.birth.is_here()
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the list of members");
        }
    }
}

/// The header of the file.
struct Header {
    format: u32,
    protocol: u16,
    incarnation: u64,
    key: [u8; 16],
    world: [u8; 24],
}

impl Header {
    fn pack(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.protocol.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.key);
        bytes[40..64].copy_from_slice(&self.world);
        seal(&mut bytes, &self.key);
        bytes
    }

    /// What the header says, if it is whole.
    fn read(bytes: &[u8; RECORD]) -> Option<Self> {
        let key = take(bytes, 24);
        is_sealed(bytes, &key).then(|| Self {
            format: u32::from_le_bytes(take(bytes, 8)),
            protocol: u16::from_le_bytes(take(bytes, 12)),
            incarnation: u64::from_le_bytes(take(bytes, 16)),
            key,
            world: take(bytes, 40),
        })
    }

    /// Whether the records can be read, and numbers of processes mean the same.
    fn is_ours(&self, world: &[u8; 24]) -> bool {
        self.format == FORMAT && self.protocol == PROTOCOL_VERSION && self.world == *world
    }
}

impl Record {
    fn pack(&self, key: &[u8; 16]) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[0] = match self.kind {
            Kind::Publisher => 1,
            Kind::Subscriber => 2,
            Kind::Dismissed => 3,
            Kind::Watch => 4,
        };
        bytes[1] = match self.state {
            State::Here => 0,
            State::Late => 1,
            State::Gone => 2,
        };
        bytes[2..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.watch.unwrap_or(0).to_le_bytes());
        bytes[32..36].copy_from_slice(&self.uid.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.digest);
        let name = &self.name.as_bytes()[..self.name.len().min(LONGEST_NAME)];
        bytes[36] = name.len() as u8;
        bytes[NAME..NAME + name.len()].copy_from_slice(name);
        seal(&mut bytes, key);
        bytes
    }

    /// Who a record tells of; none if it is free or makes no sense.
    fn unpack(bytes: &[u8; RECORD], key: &[u8; 16]) -> Option<Self> {
        if !is_sealed(bytes, key) {
            return None;
        }
        let kind = match bytes[0] {
            1 => Kind::Publisher,
            2 => Kind::Subscriber,
            3 => Kind::Dismissed,
            4 => Kind::Watch,
            _ => return None,
        };
        let length = usize::from(bytes[36]).min(LONGEST_NAME);
        let record = Self {
            id: u64::from_le_bytes(take(bytes, 16)),
            kind,
            state: match bytes[1] {
                0 => State::Here,
                1 => State::Late,
                _ => State::Gone,
            },
            index: u16::from_le_bytes(take(bytes, 2)),
            watch: Some(u64::from_le_bytes(take(bytes, 24))).filter(|watch| *watch != 0),
            pid: u32::from_le_bytes(take(bytes, 4)),
            start: u64::from_le_bytes(take(bytes, 8)),
            uid: u32::from_le_bytes(take(bytes, 32)),
            digest: take(bytes, 40),
            name: String::from_utf8(bytes[NAME..NAME + length].to_vec()).ok()?,
        };
        (record.index < MAX_PUBLISHERS && record.id >> 32 < INCARNATIONS * 2).then_some(record)
    }
}

fn take<const N: usize>(bytes: &[u8; RECORD], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn check(bytes: &[u8; RECORD], key: &[u8; 16]) -> Digest {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(&bytes[..CHECKED]);
    hasher.finish128().as_bytes()
}

fn seal(bytes: &mut [u8; RECORD], key: &[u8; 16]) {
    let check = check(bytes, key);
    bytes[CHECKED..].copy_from_slice(&check);
}

fn is_sealed(bytes: &[u8; RECORD], key: &[u8; 16]) -> bool {
    take(bytes, CHECKED) == check(bytes, key)
}

fn offset(place: u64) -> u64 {
    (place + 1) * RECORD as u64
}

fn beside(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".members");
    name.into()
}

/// A pipe that somebody has put there does not make this wait.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Why a file is not to be used, if so.
fn foreign(file: &File) -> Option<&'static str> {
    let Ok(meta) = file.metadata() else {
        return Some("the list of members cannot be looked at");
    };
    if !meta.is_file() {
        return Some("there is something that is not a file");
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Some("the list of members belongs to another user");
    }
    (meta.mode() & 0o022 != 0).then_some("others may write to the list of members")
}

/// Writes all of these bytes. Beyond the limit on file sizes the kernel would not refuse, but kill this process.
fn write_at(file: &File, bytes: &[u8; RECORD], offset: u64) -> io::Result<()> {
    match getrlimit(Resource::RLIMIT_FSIZE) {
        Ok((limit, _)) if offset + RECORD as u64 > limit => Err(Errno::EFBIG.into()),
        _ => file.write_all_at(bytes, offset),
    }
}

/// Reads what there is of so many bytes.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

fn secret() -> [u8; 16] {
    use std::hash::BuildHasher;
    let word = || std::hash::RandomState::new().build_hasher().finish();
    let mut key = [0; 16];
    key[..8].copy_from_slice(&word().to_le_bytes());
    key[8..].copy_from_slice(&word().to_le_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, index: u16) -> Record {
        Record {
            id,
            kind: Kind::Publisher,
            state: State::Here,
            index,
            watch: None,
            pid: std::process::id(),
            start: 7,
            uid: 1000,
            digest: [9; 16],
            name: "a/b".into(),
        }
    }

    /// Writes three down, and leaves the file as a kill does.
    fn left(socket: &Path) -> u64 {
        let (mut census, before) = Census::open(socket, 0).unwrap();
        assert_eq!(before, []);
        for index in 0..3 {
            census.write(record(16 + u64::from(index), index)).unwrap();
        }
        census.strike(17);
        census.write(record(20, 5)).unwrap();
        census.change(16, |record| record.state = State::Gone);
        census.incarnation()
    }

    fn spoil(socket: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(beside(socket));
        let file = file.unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    #[test]
    fn who_is_written_down_is_found_and_a_struck_place_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let first = left(&socket);
        assert_eq!(fs::metadata(beside(&socket)).unwrap().len(), 4 * 256);
        let (mut census, before) = Census::open(&socket, 0).unwrap();
        let mut gone = record(16, 0);
        gone.state = State::Gone;
        assert_eq!(before, [gone, record(20, 5), record(18, 2)]);
        assert_eq!(census.incarnation(), first + 1);
        before.iter().for_each(|record| census.strike(record.id));
        drop(census);
        assert!(!beside(&socket).exists());
    }

    #[test]
    fn a_later_incarnation_that_is_known_of_does_not_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let (census, _) = Census::open(&dir.path().join("s"), 41).unwrap();
        assert_eq!(census.incarnation(), 42);
    }

    /// Another start of the machine, another format, or a torn header: numbers of processes mean nothing then.
    #[test]
    fn of_a_header_that_differs_nobody_is_taken_over() {
        for at in [9, 12, 24, 41, 60, 250] {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("s");
            left(&socket);
            spoil(&socket, at);
            let (_, before) = Census::open(&socket, 0).unwrap();
            assert_eq!(before, [], "{at}");
        }
    }

    #[test]
    fn of_a_world_that_differs_nobody_is_taken_over_and_no_incarnation_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let first = left(&socket);
        let file = File::options().read(true).write(true).open(beside(&socket));
        let file = file.unwrap();
        let mut bytes = [0; RECORD];
        file.read_exact_at(&mut bytes, 0).unwrap();
        // Whole, and of another start of the machine.
        let mut header = Header::read(&bytes).unwrap();
        header.world[0] ^= 1;
        file.write_all_at(&header.pack(), 0).unwrap();
        let (census, before) = Census::open(&socket, 0).unwrap();
        assert_eq!((before, census.incarnation()), (Vec::new(), first + 1));
    }

    #[test]
    fn of_two_records_that_contradict_each_other_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        left(&socket);
        let (mut census, _) = Census::open(&socket, 0).unwrap();
        census.change(18, |record| record.index = 5);
        drop(census);
        let (_, before) = Census::open(&socket, 0).unwrap();
        assert_eq!(before.iter().filter(|r| r.index == 5).count(), 1);
    }

    /// What was written down is compared with what was sent over a socket and taken apart.
    #[test]
    fn a_digest_is_that_of_the_same_type_and_settings() {
        use bus_core::Settings;
        use bus_core::control::{Message, Request};
        let dir = tempfile::tempdir().unwrap();
        let (census, _) = Census::open(&dir.path().join("s"), 0).unwrap();
        let schema = Schema::of::<Option<u64>>();
        let settings = Settings::default().decide(&schema).unwrap();
        let sent = Request::Watch {
            client: "c".into(),
            pattern: "**".into(),
            schema: schema.clone(),
            resumes: None,
        };
        let Ok(Request::Watch { schema: came, .. }) =
            Request::unpack(sent.pack().unwrap().as_bytes())
        else {
            panic!("it did not come");
        };
        let digest = |schema, settings| census.digest(schema, settings).unwrap();
        assert_eq!(
            digest(&schema, Some(&settings)),
            digest(&came, Some(&settings))
        );
        assert_ne!(digest(&schema, Some(&settings)), digest(&schema, None));
        let other = TopicSettings {
            retain: 1,
            ..settings
        };
        assert_ne!(
            digest(&schema, Some(&settings)),
            digest(&schema, Some(&other))
        );
    }
}
