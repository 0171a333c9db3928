//! Where a policy comes from.
//!
//! Promises: a file that somebody else could have written is no policy.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Policy;
use crate::{Error, Result};

/// Where the policy of `busd` is if nobody says otherwise and none lies beside its socket.
const DEFAULT_PATH: &str = "/etc/bus/bus.toml";
/// Longest policy that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A file that a policy is read from, any number of times.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it may be: the first that is there is the one, from then on.
    paths: Vec<PathBuf>,
    /// It is an error if none is there.
    required: bool,
}

impl Source {
    /// This file, which must be there.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            paths: vec![path.into()],
            required: true,
        }
    }

    /// The policy of a `busd` that listens here: `$BUS_POLICY`, which must be there; else the file [beside](Self::beside) the socket;
    /// else `/etc/bus/bus.toml`.
    pub fn of_service(socket: &Path) -> Self {
        let mut source = Self::beside(socket);
        if !source.required {
            source.paths.push(DEFAULT_PATH.into());
        }
        source
    }

    /// The policy of a broker that a program hosts here: `$BUS_POLICY`, which must be there; else the file beside the socket, whose name
    /// is the socket's with `toml` for its ending: `bus.toml` beside `bus.sock`.
    pub fn beside(socket: &Path) -> Self {
        match bus_core::control::variable("BUS_POLICY") {
            Some(path) => Self::file(path),
            None => Self {
                paths: vec![socket.with_extension("toml")],
                required: false,
            },
        }
    }

    /// Where the file may be, in the order in which it is looked for; or where it is, once it was read.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whether the file has to be there: always, or since it was.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Reads the policy for a broker of this user. Where there is no file and need not be one, it is [`Policy::own`]; once there was
    /// one, it must stay.
    ///
    /// # Errors
    /// [`Error::Policy`] with all that is wrong in the file, [`Error::PolicyFile`] where it cannot be read or could be somebody else's.
    pub fn read(&mut self, own: u32) -> Result<Policy> {
        for path in &self.paths {
            let Some(policy) = read_file(path, self.required, own)? else {
                continue;
            };
            *self = Self::file(path);
            return Ok(policy);
        }
        Ok(Policy::own(own))
    }
}

/// Reads a policy; none where there is no file and need not be one.
fn read_file(path: &Path, required: bool, own: u32) -> Result<Option<Policy>> {
    let failed = |why: String| Error::PolicyFile {
        path: path.to_owned(),
        why,
    };
    // A pipe does not make this wait: it is no regular file, and refused for that.
    let mut options = OpenOptions::new();
    let file = match options.read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
        file => file.map_err(|e| failed(e.to_string()))?,
    };
    let meta = file.metadata().map_err(|e| failed(e.to_string()))?;
    if let Some(why) = untrusted(&meta, own) {
        return Err(failed(why));
    }
    let text = read_text(file).map_err(|e| failed(e.to_string()))?;
    Ok(Some(Policy::parse(path, &text, own)?))
}

fn read_text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!(
            "it is longer than {MAX_BYTES} bytes"
        )));
    }
    Ok(text)
}

/// Why a file could hold what neither root nor the broker's user has written.
fn untrusted(meta: &fs::Metadata, own: u32) -> Option<String> {
    if !meta.is_file() {
        Some("it is not a file".into())
    } else if meta.uid() != own && meta.uid() != 0 {
        Some(format!(
            "it belongs to user {}; it must belong to root or to the broker's user {own}",
            meta.uid()
        ))
    } else if meta.mode() & 0o002 != 0 {
        Some(format!(
            "everybody may write it (mode {:o}); chmod o-w it",
            meta.mode() & 0o7777
        ))
    } else {
        None
    }
}
