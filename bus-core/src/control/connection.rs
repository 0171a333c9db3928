//! One control connection: a `SOCK_SEQPACKET` socket that carries packets and descriptors.
//!
//! Promises: a packet arrives whole or not at all, in order; only calls that say so wait; a dead
//! peer is [`Error::Closed`], never a signal. What it receives is validated. It keeps no state, so that
//! both sides may use it from one thread at a time without a lock.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect,
    recvmsg, sendmsg, setsockopt, shutdown, socket, socketpair, sockopt,
};
use nix::sys::time::TimeVal;

use super::path::explain_connect;
use super::sys::{self, Received};
use super::wire::{Addressed, MAX_DESCRIPTORS, MAX_PACKET, Message, Packet, SESSION, handle_of};
use crate::fork::{Unshared, unshared};
use crate::{Error, Result};

/// How long [`Connection::connect`] waits for a broker that is slow to accept, in seconds.
const CONNECT_SECONDS: i64 = 5;
/// How long [`Connection::send`] waits for room.
const SEND_TIME: Duration = Duration::from_secs(5);
/// How long to wait before looking again, where the kernel tells nobody when the answer changes.
const RETRY: Duration = Duration::from_millis(5);

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is in the peer's socket.
    Yes,
    /// The socket is full: try again when it turns writable.
    Full,
    /// The kernel lacks memory, or too many descriptors of this user are on their way: try again later. The socket
    /// may be writable all the while, so that waiting for that would spin.
    Later,
}

/// A message that was received.
#[derive(Debug)]
pub struct Frame<M> {
    /// The handle that it is about; [`SESSION`](super::SESSION) for the session itself.
    pub handle: u32,
    /// The message.
    pub message: M,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// What comes next of what nobody has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Nothing is there.
    Nothing,
    /// A packet without descriptors.
    Bytes,
    /// A packet with descriptors.
    Descriptors,
}

/// A control connection.
#[derive(Debug)]
pub struct Connection {
    fd: Unshared<OwnedFd>,
}

impl Connection {
    /// Connects to the broker at `path`, and checks that the broker belongs to this user, to root, or to the user that `$BUS_BROKER_USER`
    /// names.
    ///
    /// # Errors
    /// [`Error::Io`] with a source that names the path. Its kind is [`NotFound`](io::ErrorKind::NotFound) or
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) exactly if no one is there, so that a broker could be
    /// started; it is something else if somebody else is there.
    pub fn connect(path: &Path) -> Result<Self> {
        match Self::connect_waiting(path, true)? {
            Some(connection) => Ok(connection),
            // A connect that waits has ended with success or with an error.
            None => Err(Error::Timeout),
        }
    }

    /// As [`connect`](Self::connect), but never waits: `None` where a broker is there and takes no connection now,
    /// because it is stopped or many ask at once. Try again a little later.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn try_connect(path: &Path) -> Result<Option<Self>> {
        Self::connect_waiting(path, false)
    }

    fn connect_waiting(path: &Path, waits: bool) -> Result<Option<Self>> {
        const WHAT: &str = "cannot reach the broker";
        super::check_socket_path(path)?;
        let failed = |e: Errno| Error::io(WHAT, explain_connect(path, e));
        let address = UnixAddr::new(path).map_err(failed)?;
        let fd = Unshared::new(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        })
        .map_err(failed)?;
        if waits {
            // A full backlog makes a blocking connect wait, for this long; a non-blocking one would have to spin.
            setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(CONNECT_SECONDS, 0))
                .map_err(failed)?;
        } else {
            fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
        }
        loop {
            match connect(fd.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !waits => return Ok(None),
                Err(e) => return Err(failed(e)),
            }
        }
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
        let connection = Self { fd };
        let (owner, me) = (
            connection.credentials()?.uid,
            nix::unistd::geteuid().as_raw(),
        );
        let is_named = || super::path::broker_user() == Some(owner);
        if super::may_be_anybody(owner) && !is_named() {
            let why = format!(
                "the broker at {} belongs to a user that has no number in this user namespace, where such users appear as {owner}; map the user, or set BUS_BROKER_USER={owner} if you trust all of them",
                path.display()
            );
            return Err(Error::io(
                WHAT,
                io::Error::new(io::ErrorKind::PermissionDenied, why),
            ));
        }
        if owner != me && owner != 0 && !is_named() {
            let why = format!(
                "the broker at {} belongs to user {owner}, and this is user {me}; set BUS_SOCKET to a path of your own, or BUS_BROKER_USER={owner} if that user runs your broker",
                path.display()
            );
            return Err(Error::io(
                WHAT,
                io::Error::new(io::ErrorKind::PermissionDenied, why),
            ));
        }
        Ok(Some(connection))
    }

    /// Two connections, each the other's peer.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said.
    ///
    /// ```
    /// use bus_core::control::{Connection, Request};
    /// let (client, broker) = Connection::pair()?;
    /// client.send(7, &Request::Released { ring: 3 }, &[])?;
    /// let frame = broker.recv::<Request>(None)?;
    /// assert_eq!((frame.handle, frame.message), (7, Request::Released { ring: 3 }));
    /// assert!(frame.descriptors.is_empty());
    /// # Ok::<(), bus_core::Error>(())
    /// ```
    pub fn pair() -> Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let failed = |e| Error::io("cannot make a pair of sockets", e);
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(failed)?;
        let kept = |fd| Unshared::new(|| Ok(fd)).map_err(failed);
        Ok((Self { fd: kept(a)? }, Self { fd: kept(b)? }))
    }

    /// A connection over a `SOCK_SEQPACKET` socket. No call waits in the kernel, whether it is non-blocking or not.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be kept from forked children.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let fd = Unshared::new(|| Ok(fd)).map_err(unshared)?;
        Ok(Self { fd })
    }

    /// Accepts a connection; `None` if nobody asks for one.
    ///
    /// # Errors
    /// [`Error::Io`] with what the kernel said; the caller tells `EMFILE` and its like apart.
    pub fn accept(listener: &impl AsFd) -> Result<Option<Self>> {
        match Unshared::new(|| sys::accept(listener.as_fd())) {
            Ok(fd) => Ok(Some(Self { fd })),
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN | libc::ECONNABORTED) => Ok(None),
                _ => Err(Error::io("cannot accept a connection", e)),
            },
        }
    }

    /// Sends a message and its descriptors; waits for room for up to five seconds.
    ///
    /// # Errors
    /// [`Error::Timeout`] if there was no room in time. [`Error::Closed`] if the peer is gone: what it said last
    /// can still be received.
    pub fn send<M: Message>(
        &self,
        handle: u32,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let packet = message.pack(handle)?;
        let deadline = Instant::now() + SEND_TIME;
        loop {
            let (flags, until) = match self.try_send_packet(&packet, descriptors)? {
                Sent::Yes => return Ok(()),
                Sent::Full => (PollFlags::POLLOUT, deadline),
                Sent::Later => (PollFlags::empty(), deadline.min(Instant::now() + RETRY)),
            };
            if Instant::now() >= deadline {
                return Err(Error::Timeout);
            }
            self.wait(flags, Some(until))?;
        }
    }

    /// Sends a message and its descriptors if there is room now; `false` if there is none.
    ///
    /// # Errors
    /// [`Error::Closed`] if the peer is gone.
    pub fn try_send<M: Message>(
        &self,
        handle: u32,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<bool> {
        Ok(self.try_send_packet(&message.pack(handle)?, descriptors)? == Sent::Yes)
    }

    /// Sends a packed message and its descriptors if there is room now.
    ///
    /// # Errors
    /// [`Error::Closed`] if the peer is gone; [`Error::Control`] for more than [`MAX_DESCRIPTORS`] descriptors.
    pub fn try_send_packet(&self, packet: &Packet, descriptors: &[BorrowedFd<'_>]) -> Result<Sent> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Error::Control(format!(
                "it has {} descriptors, and the limit is {MAX_DESCRIPTORS}",
                descriptors.len()
            )));
        }
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let bytes = [IoSlice::new(packet.as_bytes())];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            return match sendmsg::<()>(self.fd.as_raw_fd(), &bytes, rights, flags, None) {
                Ok(_) => Ok(Sent::Yes),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Ok(Sent::Full),
                Err(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => Ok(Sent::Later),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(Error::Closed),
                Err(e) => Err(Error::io("cannot send a control message", e)),
            };
        }
    }

    /// Receives a message and its descriptors if one is there; `None` if there is none now, or no memory to take it:
    /// the message stays where it is. A message that is unknown and may be ignored is skipped.
    ///
    /// # Errors
    /// [`Error::Closed`] at the end, [`Error::Version`] and [`Error::Control`] for what is not acceptable: its
    /// descriptors are closed. [`Error::DescriptorsLost`] where this process had no room for the descriptors: the
    /// message is lost with them.
    pub fn try_recv<M: Message>(&self) -> Result<Option<Frame<M>>> {
        self.try_recv_or(&mut Vec::new())
    }

    /// As [`try_recv`](Self::try_recv), but the descriptors of what is not acceptable are put into `refused`, open:
    /// closing one may take as long as its maker likes (a socket that lingers, a file of a file system that is a
    /// process).
    ///
    /// # Errors
    /// As for [`try_recv`](Self::try_recv).
    pub fn try_recv_or<M: Message>(&self, refused: &mut Vec<OwnedFd>) -> Result<Option<Frame<M>>> {
        while let Some((frame, _)) = self.take(false, refused)? {
            let Frame {
                handle,
                message,
                descriptors,
            } = frame;
            match message {
                Some(message) => {
                    return Ok(Some(Frame {
                        handle,
                        message,
                        descriptors,
                    }));
                }
                None => refused.extend(descriptors),
            }
        }
        Ok(None)
    }

    /// As [`try_recv`](Self::try_recv), but a message arrives also where this process had no room for its descriptors:
    /// then with those for which there was room, and `true`. One that is unknown and may be ignored arrives as none: its descriptors count
    /// for whoever acknowledges them.
    ///
    /// # Errors
    /// As for [`try_recv`](Self::try_recv), but never [`Error::DescriptorsLost`].
    pub fn try_recv_bereft<M: Message>(&self) -> Result<Option<(Frame<Option<M>>, bool)>> {
        self.take(true, &mut Vec::new())
    }

    /// Takes a message, also one of which descriptors were lost if `bereft` says so; and whether any were.
    fn take<M: Message>(
        &self,
        bereft: bool,
        refused: &mut Vec<OwnedFd>,
    ) -> Result<Option<(Frame<Option<M>>, bool)>> {
        let Some(packet) = self.receive()? else {
            return Ok(None);
        };
        let lost = has_lost_descriptors(&packet);
        let opened = if (packet.truncated && !(lost && bereft))
            || packet.descriptors.len() > MAX_DESCRIPTORS
        {
            Err(cut_short(&packet))
        } else if packet.bytes.is_empty() {
            // Nobody sends empty packets, so this is the end.
            Err(Error::Closed)
        } else {
            M::unpack(&packet.bytes)
        };
        match opened {
            Ok(Addressed { handle, message }) => {
                let frame = Frame {
                    handle,
                    message,
                    descriptors: packet.descriptors,
                };
                Ok(Some((frame, lost)))
            }
            Err(error) => {
                refused.extend(packet.descriptors);
                Err(error)
            }
        }
    }

    /// Takes one packet out of the socket, if one is there.
    fn receive(&self) -> Result<Option<Received>> {
        let mut reset = false;
        loop {
            match sys::receive(self.as_fd()) {
                Ok(packet) => return Ok(Some(packet)),
                Err(e) => match e.raw_os_error() {
                    // The kernel says once that the peer left without reading everything, ahead of
                    // what the peer said before that.
                    Some(libc::ECONNRESET) if !reset => reset = true,
                    Some(libc::EAGAIN) => return Ok(None),
                    // The packet is still there. Giving up now would lose all that is yet to be said.
                    Some(libc::ENOMEM | libc::ENOBUFS) => return Ok(None),
                    Some(libc::ECONNRESET | libc::ENOTCONN) => return Err(Error::Closed),
                    _ => return Err(Error::io("cannot receive a control message", e)),
                },
            }
        }
    }

    /// What comes next of what nobody has read: whoever closes this connection closes the descriptors in it as well,
    /// which may take as long as their makers like. Nothing more comes after [`shut_down`](Self::shut_down).
    pub fn unread(&self) -> Unread {
        match self.peek() {
            None => Unread::Nothing,
            Some(flags) if flags.contains(MsgFlags::MSG_CTRUNC) => Unread::Descriptors,
            Some(flags) if flags.contains(MsgFlags::MSG_TRUNC) => Unread::Bytes,
            // The end, or a packet without bytes. To a packet the kernel adds its word on the sender, for which there
            // is no room here either.
            Some(_) => {
                let marked = setsockopt(&self.fd, sockopt::PassCred, &true).is_ok();
                let flags = self.peek().unwrap_or(MsgFlags::empty());
                let _ = setsockopt(&self.fd, sockopt::PassCred, &false);
                match marked && flags.contains(MsgFlags::MSG_CTRUNC) {
                    true => Unread::Bytes,
                    false => Unread::Nothing,
                }
            }
        }
    }

    /// What a look at the next packet says that has room for nothing of it.
    fn peek(&self) -> Option<MsgFlags> {
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        loop {
            match recvmsg::<()>(self.fd.as_raw_fd(), &mut [], None, peek) {
                Ok(there) => return Some(there.flags),
                // The kernel says this once, ahead of what is there.
                Err(Errno::ECONNRESET | Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Takes the next packet, whatever it is: its descriptors.
    pub fn take_unread(&self) -> Vec<OwnedFd> {
        sys::receive(self.as_fd()).map_or_else(|_| Vec::new(), |packet| packet.descriptors)
    }

    /// Whether others may send descriptors over this connection. A kernel that cannot forbid it (before Linux 6.16)
    /// allows it.
    pub fn take_descriptors(&self, wanted: bool) {
        take_descriptors(&self.fd, wanted);
    }

    /// Receives a message and its descriptors; waits until the deadline, or for ever without one.
    ///
    /// # Errors
    /// [`Error::Timeout`] at the deadline; else as [`try_recv`](Self::try_recv).
    pub fn recv<M: Message>(&self, deadline: Option<Instant>) -> Result<Frame<M>> {
        loop {
            if let Some(received) = self.try_recv()? {
                return Ok(received);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::Timeout);
            }
            self.wait(PollFlags::POLLIN, deadline)?;
        }
    }

    /// Ends the conversation, whoever else has the descriptor: a child that was forked and has not yet reached `exec` has.
    pub fn shut_down(&self) {
        // This fails only where the other side is gone already.
        let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Both);
    }

    /// Waits for one of the flags, the peer's end, a signal, or the deadline.
    fn wait(&self, flags: PollFlags, deadline: Option<Instant>) -> Result<()> {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up, so that the last bit of the time is slept and not spun away.
                let millis = left.as_millis().saturating_add(1);
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut [PollFd::new(self.fd.as_fd(), flags)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(Error::io(
                "cannot wait for the other side of a control connection",
                e,
            )),
        }
    }
}

/// Whether others may send descriptors to this socket, or, where it listens, over connections to it until each says
/// otherwise. A kernel that cannot forbid it (before Linux 6.16) allows it.
pub fn take_descriptors(socket: &impl AsFd, wanted: bool) {
    let _ = sys::pass_rights(socket.as_fd(), wanted);
}

/// Whether nothing but descriptors is missing of a packet. There is room for more descriptors than a packet can
/// carry: where they are cut short, the kernel could not install them.
fn has_lost_descriptors(packet: &Received) -> bool {
    packet.truncated
        && packet.bytes.len() < MAX_PACKET
        && packet.descriptors.len() <= MAX_DESCRIPTORS
}

/// Why a packet did not arrive whole.
fn cut_short(packet: &Received) -> Error {
    if has_lost_descriptors(packet) {
        return Error::DescriptorsLost {
            handle: handle_of(&packet.bytes).unwrap_or(SESSION),
        };
    }
    Error::Control(format!(
        "it has more than {MAX_DESCRIPTORS} descriptors or {MAX_PACKET} bytes"
    ))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Event, Request};

    fn joined() -> Event {
        Event::Joined { version: 1 }
    }

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (a, b) = Connection::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        a.send(1, &joined(), &[file.as_fd(), a.as_fd()]).unwrap();
        let frame = b.recv::<Event>(None).unwrap();
        assert_eq!((frame.handle, frame.message), (1, joined()));
        let descriptors = frame.descriptors;
        let same = nix::sys::stat::fstat(&descriptors[0]).unwrap();
        assert_eq!(same.st_ino, nix::sys::stat::fstat(&file).unwrap().st_ino);
        assert_eq!(descriptors.len(), 2);
    }

    /// The kernel installs what fits of them; a packet that is refused must not leak that.
    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        let (a, b) = Connection::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let packet = joined().pack(1).unwrap();
        sendmsg::<()>(
            a.as_fd().as_raw_fd(),
            &[IoSlice::new(packet.as_bytes())],
            &[ControlMessage::ScmRights(&[writer.as_raw_fd(); 9])],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .unwrap();
        drop(writer);
        let error = b.recv::<Event>(None).unwrap_err();
        assert!(error.to_string().contains("descriptors"), "{error}");
        // Only when no writing end is left anywhere does a pipe end.
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut fds, PollTimeout::ZERO).unwrap(),
            1,
            "a descriptor leaks"
        );
    }

    fn send_nine(a: &Connection, bytes: &[u8], file: &std::fs::File) {
        let raw = [file.as_fd().as_raw_fd(); 9];
        let rights = [ControlMessage::ScmRights(&raw)];
        let parts = [IoSlice::new(bytes)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(a.as_fd().as_raw_fd(), &parts, &rights, flags, None).unwrap();
    }

    #[test]
    fn descriptors_of_what_is_refused_come_out_open() {
        let (a, b) = Connection::pair().unwrap();
        let mut refused = Vec::new();
        send_nine(&a, b"nothing", &tempfile::tempfile().unwrap());
        b.try_recv_or::<Event>(&mut refused).unwrap_err();
        assert_eq!(refused.len(), 9);
    }

    #[test]
    fn what_nobody_has_read_is_seen_also_where_it_has_no_bytes_or_its_sender_is_gone() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [&b""[..], b"unread"] {
            for gone in [false, true] {
                let (a, b) = Connection::pair().unwrap();
                assert_eq!(b.unread(), Unread::Nothing);
                // What the peer has not read either is told first.
                b.send(1, &joined(), &[]).unwrap();
                send_nine(&a, bytes, &file);
                let flags = MsgFlags::MSG_NOSIGNAL;
                nix::sys::socket::send(a.as_fd().as_raw_fd(), bytes, flags).unwrap();
                let a = (!gone).then_some(a);
                b.shut_down();
                assert_eq!(b.unread(), Unread::Descriptors);
                assert_eq!(b.take_unread().len(), 9);
                assert_eq!(b.unread(), Unread::Bytes);
                assert!(b.take_unread().is_empty());
                assert_eq!(b.unread(), Unread::Nothing);
                drop(a);
            }
        }
    }

    #[test]
    fn nobody_sends_descriptors_where_they_are_not_taken() {
        let (a, b) = Connection::pair().unwrap();
        b.take_descriptors(false);
        let file = tempfile::tempfile().unwrap();
        let sent = a.send(1, &joined(), &[file.as_fd()]);
        if sent.is_ok() {
            // A kernel before Linux 6.16.
            return;
        }
        a.send(2, &joined(), &[]).unwrap();
        b.take_descriptors(true);
        a.send(3, &joined(), &[file.as_fd()]).unwrap();
        assert_eq!(b.recv::<Event>(None).unwrap().handle, 2);
        assert_eq!(b.recv::<Event>(None).unwrap().descriptors.len(), 1);
    }

    #[test]
    fn a_long_packet_is_refused() {
        let (a, b) = Connection::pair().unwrap();
        let long = vec![0_u8; MAX_PACKET + 1];
        nix::sys::socket::send(a.as_fd().as_raw_fd(), &long, MsgFlags::empty()).unwrap();
        let error = b.recv::<Event>(None).unwrap_err();
        assert!(matches!(error, Error::Control(_)), "{error}");
    }

    /// The kernel reports first that the peer read nothing, to whichever call comes first.
    #[test]
    fn the_last_words_of_a_peer_that_read_nothing_are_heard() {
        for send_again in [false, true] {
            let (a, b) = Connection::pair().unwrap();
            b.send(1, &Request::Join {}, &[]).unwrap();
            a.send(1, &joined(), &[]).unwrap();
            drop(a);
            if send_again {
                let sent = b.send(1, &Request::Join {}, &[]);
                assert!(matches!(sent, Err(Error::Closed)), "{sent:?}");
            }
            assert_eq!(b.recv::<Event>(None).unwrap().message, joined());
            let end = b.recv::<Event>(None);
            assert!(matches!(end, Err(Error::Closed)), "{end:?}");
        }
    }

    #[test]
    fn nothing_there_is_none_and_then_a_time_out() {
        let (_a, b) = Connection::pair().unwrap();
        assert!(b.try_recv::<Event>().unwrap().is_none());
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(matches!(
            b.recv::<Event>(Some(deadline)),
            Err(Error::Timeout)
        ));
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn a_full_socket_takes_no_more_until_it_is_read() {
        let (a, b) = Connection::pair().unwrap();
        let mut sent = 0;
        while a.try_send(1, &joined(), &[]).unwrap() {
            sent += 1;
        }
        assert!(sent > 0);
        for _ in 0..sent {
            assert!(b.try_recv::<Event>().unwrap().is_some());
        }
        assert!(b.try_recv::<Event>().unwrap().is_none());
        assert!(a.try_send(1, &joined(), &[]).unwrap());
    }
}
