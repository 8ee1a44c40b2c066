//! What the two processes say, over a Unix socket and with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::SockRef;

use crate::handover::Message;
use crate::limits;

/// Room for the descriptors of one message.
const SPACE: usize = rustix::cmsg_space!(ScmRights(limits::HANDOVER_SOCKETS_MAX));

/// See the file's head.
pub struct Talk {
    stream: UnixStream,
    heard: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Talk {
    /// Talks over a connection.
    pub fn new(stream: UnixStream) -> io::Result<Talk> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(limits::HANDOVER_STEP_WITHIN))?;
        Ok(Talk { stream, heard: Vec::new(), sockets: Vec::new() })
    }

    /// The process id of the other one, which must be of this user: by its mode the socket lets root in, too, and who
    /// is root needs other means than ours.
    pub fn check_peer(&self) -> io::Result<i32> {
        let peer = credentials(&self.stream)?;
        if peer.uid == own_uid() {
            return Ok(peer.pid);
        }
        let text = format!("it runs as user {}, and this process as user {}", peer.uid, own_uid());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    /// Says this, with descriptors beside it.
    pub fn say(&mut self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("more descriptors than fit one message"));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
        self.stream.write_all(&bytes[sent..])
    }

    /// Waits for what the other one says.
    pub fn hear(&mut self, within: Duration) -> io::Result<Message> {
        let until = Instant::now() + within;
        loop {
            if let Some((message, size)) = Message::take(&self.heard).map_err(io::Error::other)? {
                self.heard.drain(..size);
                return Ok(message);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing"));
            }
            self.stream.set_read_timeout(Some(left))?;
            self.receive()?;
        }
    }

    /// Whether the other one has not ended. What it said may wait to be heard.
    pub fn is_there(&self) -> bool {
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match SockRef::from(&self.stream).recv_with_flags(&mut [MaybeUninit::uninit()], flags) {
            Ok(size) => size > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// The descriptors that came until now.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    fn receive(&mut self) -> io::Result<()> {
        let (mut piece, mut space) = ([0; 1_024], [MaybeUninit::uninit(); SPACE]);
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut piece)];
        let size = match recvmsg(&self.stream, into, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received.bytes,
            // The time is looked at by the caller.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                self.sockets.extend(sockets);
            }
        }
        if size == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is gone"));
        }
        if self.sockets.len() > limits::HANDOVER_SOCKETS_MAX {
            return Err(io::Error::other("more descriptors than were announced"));
        }
        self.heard.extend_from_slice(&piece[..size]);
        Ok(())
    }
}

/// Who connected, or who listened when we connected.
pub(super) fn credentials(stream: &UnixStream) -> io::Result<libc::ucred> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to locals that live through the call, and the size is that of the first.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(found) } else { Err(io::Error::last_os_error()) }
}

/// The user as whom this process may do things.
pub fn own_uid() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}
