//! Ctrl-C and SIGTERM: asked for between two messages, waited for beside standard input, and obeyed in the end.
//!
//! Promises: whoever asks [`Interrupt::came`] or waits on [`Interrupt::descriptor`] learns of the signal and can end cleanly.
//! A process that is stuck elsewhere (writing to a full pipe, waiting for room on a topic) ends all the same, [`GRACE`] later.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// How long a clean end may take.
const GRACE: Duration = Duration::from_millis(500);

/// What a shell expects of a program that a signal ended.
pub fn cut_short(signal: usize) -> u8 {
    128_u8.saturating_add(u8::try_from(signal).unwrap_or(0))
}

/// For a program whose ordinary end is Ctrl-C.
pub fn fine(_signal: usize) -> u8 {
    0
}

/// Watches for the signals that ask a process to end.
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
    readable: UnixStream,
    code: fn(usize) -> u8,
}

impl Interrupt {
    /// Starts to watch. `code` gives the exit code for a signal.
    pub fn watch(code: fn(usize) -> u8) -> anyhow::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let (readable, waker) = UnixStream::pair().context("cannot watch for signals")?;
        let (watched, alarm) = UnixStream::pair().context("cannot watch for signals")?;
        for number in [SIGINT, SIGTERM] {
            let register = || -> std::io::Result<()> {
                flag::register_usize(number, signal.clone(), number.unsigned_abs() as usize)?;
                low_level::pipe::register(number, waker.try_clone()?)?;
                low_level::pipe::register(number, alarm.try_clone()?)?;
                Ok(())
            };
            register().context("cannot watch for signals")?;
        }
        let seen = signal.clone();
        thread::Builder::new()
            .name("bus-signals".into())
            .spawn(move || obey(&watched, &seen, code))
            .context("cannot watch for signals")?;
        Ok(Self {
            signal,
            readable,
            code,
        })
    }

    /// The exit code, if a signal came.
    #[inline]
    pub fn came(&self) -> Option<u8> {
        // ORDERING: a flag of its own; nothing else is read because of it.
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some((self.code)(signal)),
        }
    }

    /// Readable once a signal came.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// Ends the process if it does not do so itself. What it leaves at the broker's path, the next broker removes.
fn obey(watched: &UnixStream, signal: &AtomicUsize, code: fn(usize) -> u8) {
    use std::io::Read as _;
    let mut watched = watched;
    if watched.read_exact(&mut [0]).is_err() {
        return;
    }
    thread::sleep(GRACE);
    // ORDERING: stored before the byte that was read was written, on the thread that the handler ran on.
    process::exit(code(signal.load(Ordering::Relaxed)).into());
}
