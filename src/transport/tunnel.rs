//! A tunnel: bytes between a wire and a stream as they come, both ways, each with an end of its own.
//!
//! What is said in it is nobody's business here. How one begins is the roles' story (`gateway/relay.rs`,
//! `connector/relay.rs`), and so is what its end means. At rest it holds no buffer: the wire receives into
//! those that the shard shares, and leaves them while the stream takes nothing.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::link::Stream;
use super::mailbox::Broken;
use super::wire::Wire;
use crate::limits;
use crate::shard::{Deadline, Shard};

/// How long nothing may move.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// In a tunnel at rest.
    pub idle: Duration,
    /// While the wire's peer takes nothing of what waits for it.
    pub taking: Duration,
}

/// What a tunnel waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    Idle,
    NotTaken,
    HalfOpen,
}

impl std::fmt::Display for Silence {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Silence::Idle => "nothing passed through the tunnel",
            Silence::NotTaken => "nothing was taken of what waits at the end of the tunnel",
            Silence::HalfOpen => "one side of the tunnel has ended, and nothing came from the other",
        })
    }
}

/// Why a tunnel did not end well.
#[derive(Debug)]
pub enum Broke {
    /// The wire's connection broke.
    Wire(io::Error),
    /// The other hop broke it off, or its channel was lost; what came before was passed on.
    Stream(Broken),
    /// It was given up; why.
    Silent(String),
}

/// Which end of the wire's peer is an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Only one that TLS's closing alert tells of, where there is TLS: anything else is a cut.
    Said,
    /// Also that of TCP alone.
    Any,
}

/// From the wire to the stream.  Open ── end of the wire, all sent ──▶ Ended
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inward {
    Open,
    Ended,
}

/// From the stream to the wire.  Open ── end of the stream, all written ──▶ Ending ── all left ──▶ Ended
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outward {
    Open,
    Ending,
    Ended,
}

/// Whatever changes when something moves.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    bytes: [u64; 2],
    unsent: usize,
    is_flushed: bool,
    is_broken: bool,
    directions: (Inward, Outward),
}

/// See the file's head.
pub struct Tunnel<'t> {
    wire: &'t mut Wire,
    stream: &'t Stream,
    ends: Ends,
    inward: Inward,
    outward: Outward,
    /// Bytes from the wire that the stream took.
    pub bytes_in: u64,
    /// Bytes of the stream that were written to the wire.
    pub bytes_out: u64,
}

impl Tunnel<'_> {
    /// What the wire received already goes first.
    pub fn new<'t>(wire: &'t mut Wire, stream: &'t Stream, ends: Ends) -> Tunnel<'t> {
        wire.use_own_buffer(false);
        let (inward, outward) = (Inward::Open, Outward::Open);
        Tunnel { wire, stream, ends, inward, outward, bytes_in: 0, bytes_out: 0 }
    }

    /// The connection at this side.
    pub fn wire(&self) -> &Wire {
        self.wire
    }

    /// Carries it until both directions have ended, and everything has left. Dropped before, it can be
    /// called again.
    ///
    /// # Errors
    /// It broke; the wire must be dropped, so that its peer sees that.
    pub async fn carry(
        &mut self,
        shard: &Shard,
        deadline: &Deadline,
        patience: Patience,
    ) -> Result<(), Broke> {
        let (mut seen, mut moved_at) = (self.mark(), shard.now());
        std::future::poll_fn(|context| {
            if let Poll::Ready(end) = self.poll(context) {
                return Poll::Ready(end);
            }
            let mark = self.mark();
            if mark != seen {
                (seen, moved_at) = (mark, shard.now());
            }
            self.poll_silence(context, deadline, moved_at, patience).map(Err)
        })
        .await
    }

    fn mark(&self) -> Mark {
        let bytes = [self.bytes_in, self.bytes_out];
        Mark {
            bytes,
            unsent: self.wire.unsent(),
            is_flushed: self.wire.is_flushed(),
            is_broken: self.stream.mailbox().broken().is_some(),
            directions: (self.inward, self.outward),
        }
    }

    fn poll_silence(
        &self,
        context: &Context<'_>,
        deadline: &Deadline,
        moved_at: Instant,
        patience: Patience,
    ) -> Poll<Broke> {
        let silence = self.silence();
        let wait = match silence {
            Silence::Idle => patience.idle,
            Silence::NotTaken => patience.taking,
            Silence::HalfOpen => limits::TUNNEL_HALF_OPEN_FOR,
        };
        deadline.set(moved_at, wait);
        if deadline.poll(context) {
            return Poll::Ready(Broke::Silent(format!("{silence} for {} s", wait.as_secs_f32())));
        }
        Poll::Pending
    }

    fn silence(&self) -> Silence {
        let is_over = self.stream.mailbox().broken().is_some() || self.outward == Outward::Ending;
        match (self.inward, self.outward) {
            _ if is_over || !self.wire.is_flushed() => Silence::NotTaken,
            (Inward::Open, Outward::Open | Outward::Ending) => Silence::Idle,
            (Inward::Ended, _) | (_, Outward::Ended) => Silence::HalfOpen,
        }
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<(), Broke>> {
        self.stream.mailbox().watch(context);
        let broken = self.stream.mailbox().broken();
        if broken.is_some() {
            // Nobody takes what the peer still sends.
            self.wire.pause();
        } else {
            self.pass_inward(context).map_err(Broke::Wire)?;
        }
        self.pass_outward(context).map_err(Broke::Wire)?;
        if (self.inward, self.outward) == (Inward::Ended, Outward::Ended) {
            return Poll::Ready(Ok(()));
        }
        if let Some(broken) = broken
            && self.stream.data().is_empty()
            && self.wire.poll_flush(context).map_err(Broke::Wire)?.is_ready()
        {
            return Poll::Ready(Err(Broke::Stream(broken)));
        }
        self.wire.watch(context);
        Poll::Pending
    }

    // ── from the wire to the stream ─────────────────────────────────────────────────────────────

    fn pass_inward(&mut self, context: &Context<'_>) -> io::Result<()> {
        while self.inward == Inward::Open {
            if self.wire.received().is_empty() {
                match self.poll_gather(context)? {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => {
                        self.end_inward()?;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            let sent = self.stream.send(self.wire.received());
            if sent == 0 {
                // What the peer sends meanwhile stays with it.
                self.wire.pause();
                break;
            }
            self.wire.consume(sent);
            self.bytes_in += sent as u64;
        }
        Ok(())
    }

    /// Receives what has come, up to what one frame carries: bytes come in small pieces, and each frame
    /// costs. False: nothing more comes.
    fn poll_gather(&mut self, context: &Context<'_>) -> io::Result<Poll<bool>> {
        loop {
            let size = self.wire.received().len();
            if size >= limits::FRAME_PAYLOAD_SIZE_MAX {
                return Ok(Poll::Ready(true));
            }
            match self.wire.poll_fill(context) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Ok(Poll::Ready(size > 0)),
                // What came before the break is passed on; it is told again.
                Poll::Ready(Err(_)) | Poll::Pending if size > 0 => return Ok(Poll::Ready(true)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }

    fn end_inward(&mut self) -> io::Result<()> {
        if self.ends == Ends::Said && !self.wire.is_cleanly_closed() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.stream.end(&[]);
        self.inward = Inward::Ended;
        Ok(())
    }

    // ── from the stream to the wire ─────────────────────────────────────────────────────────────

    fn pass_outward(&mut self, context: &Context<'_>) -> io::Result<()> {
        if self.outward == Outward::Open {
            self.write(context)?;
        }
        if self.outward == Outward::Ending && self.wire.poll_flush(context)?.is_ready() {
            self.wire.shutdown();
            self.outward = Outward::Ended;
        }
        Ok(())
    }

    fn write(&mut self, context: &Context<'_>) -> io::Result<()> {
        while !self.stream.data().is_empty() {
            if self.wire.poll_space(context)?.is_pending() {
                return Ok(());
            }
            self.bytes_out += self.write_piece()? as u64;
        }
        if self.stream.mailbox().is_ended() {
            self.wire.say_goodbye();
            self.outward = Outward::Ending;
        } else if self.wire.poll_room(context)?.is_ready() {
            self.wire.start_send()?;
        }
        Ok(())
    }

    fn write_piece(&mut self) -> io::Result<usize> {
        let size = self.stream.pass_on(self.wire, u64::MAX)?;
        if size > 0 {
            return Ok(size);
        }
        let data = self.stream.data();
        let size = data.len().min(self.wire.room());
        self.wire.write(&data[..size])?;
        drop(data);
        self.stream.consume(size);
        Ok(size)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tunnel_tests.rs"]
mod tests;
