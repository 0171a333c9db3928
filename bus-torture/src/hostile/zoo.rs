//! Descriptors of every kind that a peer might send instead of the right one.

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use anyhow::{Context, Result};
use bus_core::memory::layout::{READER_MAGIC, RING_MAGIC};
use fastrand::Rng;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use nix::unistd::{ftruncate, pipe};

use crate::pen::{Pen, SEALS};

/// All kinds, one of each.
#[derive(Debug)]
pub struct Zoo {
    animals: Vec<OwnedFd>,
}

impl Zoo {
    /// Catches one of each.
    ///
    /// # Errors
    /// There are not enough descriptors.
    pub fn new() -> Result<Self> {
        let (reading, writing) = pipe()?;
        let (stream, other) = UnixStream::pair()?;
        // Each has the other in its queue: only the kernel's collector finds them.
        pass(&stream, &[other.as_fd()])?;
        pass(&other, &[stream.as_fd()])?;
        let mut animals = vec![
            reading,
            writing,
            stream.into(),
            other.into(),
            UnixDatagram::unbound()?.into(),
            TcpListener::bind("127.0.0.1:0")?.into(),
            File::open("/dev/null")?.into(),
            File::open("/dev/zero")?.into(),
            File::open("/")?.into(),
            File::open("/proc/self/exe")?.into(),
            File::open("/proc/self/maps")?.into(),
            tempfile::tempfile()?.into(),
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?.0,
            EventFd::new()?.into(),
            sparse(1 << 40)?,
            sparse(0)?,
        ];
        let seals = [
            SealFlag::empty(),
            SEALS.difference(SealFlag::F_SEAL_SHRINK),
            SEALS.difference(SealFlag::F_SEAL_GROW),
            SEALS.difference(SealFlag::F_SEAL_FUTURE_WRITE),
            SEALS.difference(SealFlag::F_SEAL_SEAL),
            SEALS,
        ];
        for seals in seals {
            for magic in [0, RING_MAGIC, READER_MAGIC] {
                for bytes in [4096, 8192] {
                    let pen = Pen::create_sealed(magic, bytes, seals)?;
                    animals.push(pen.as_fd().try_clone_to_owned()?);
                }
            }
        }
        Ok(Self { animals })
    }

    /// Up to `most` of them.
    pub fn some(&self, random: &mut Rng, most: usize) -> Vec<BorrowedFd<'_>> {
        let count = random.usize(..=most);
        (0..count)
            .map(|_| self.animals[random.usize(..self.animals.len())].as_fd())
            .collect()
    }
}

/// A memfd of so many bytes, none of which is allocated, sealed as a segment is.
fn sparse(bytes: i64) -> Result<OwnedFd> {
    let fd = memfd_create(
        c"sparse",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?;
    ftruncate(&fd, bytes)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(fd)
}

/// Sends a packet of one byte with these descriptors.
fn pass(socket: &impl AsFd, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    send(socket, &[1], descriptors).context("passing a descriptor")
}

/// Sends any bytes with any descriptors, without waiting.
///
/// # Errors
/// What the kernel says.
pub fn send(socket: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let parts = [io::IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &parts, rights, flags, None).map(drop)
}

/// A socket whose last `close` waits: it has sent what nobody takes, and is to linger. Both ends.
///
/// # Errors
/// There is no loopback network.
pub fn lingering(seconds: i32) -> Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    setsockopt(&listener, sockopt::RcvBuf, &2048)?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.set_nonblocking(true)?;
    while client.write(&[0; 65_536]).is_ok() {}
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: seconds,
    };
    setsockopt(&client, sockopt::Linger, &linger)?;
    Ok((client.into(), server.into()))
}
