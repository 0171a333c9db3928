//! What a broker tells systemd about itself, if systemd has started it and asked to be told.
//!
//! Promises: without `NOTIFY_SOCKET` it does nothing. A message that cannot be sent costs a warning.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::time::{ClockId, clock_gettime};

/// What the broker is doing, as systemd's `Type=notify-reload` wants to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It serves.
    Ready,
    /// It reads its policy again.
    Reloading,
    /// It is about to end.
    Stopping,
}

/// Tells systemd.
pub(crate) fn tell(state: State) {
    let Some(address) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = message(state).and_then(|text| send(&address, &text)) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

fn message(state: State) -> io::Result<String> {
    Ok(match state {
        State::Ready => "READY=1".into(),
        State::Stopping => "STOPPING=1".into(),
        State::Reloading => {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
            let micros = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000;
            format!("RELOADING=1\nMONOTONIC_USEC={micros}")
        }
    })
}

fn send(address: &OsStr, text: &str) -> io::Result<()> {
    let bytes = address.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}
