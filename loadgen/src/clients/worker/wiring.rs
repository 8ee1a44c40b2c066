//! The bytes of connections, between the kernel and their sessions.

use super::super::client::{Client, State};
use super::super::options::Reading;
use super::super::session::{Opened, SessionError};
use super::ending::Cause;
use super::{BUFFER_SIZE, PACE, SPARES_MAX, STAGED_SIZE_MAX, Timer, Worker, take_spare};
use crate::ring::{Completion, Flight, Operation};
use std::cmp::Reverse;
use std::io;
use std::time::{Duration, Instant};

impl Worker<'_> {
    pub fn received(&mut self, key: u32, completion: Completion, now: Instant) {
        let client = &mut self.clients[key as usize];
        if !completion.more {
            client.receive = Flight::Idle;
        }
        match (completion.result, completion.buffer) {
            (size @ 1.., Some(buffer)) => {
                client.last_traffic = now;
                self.tally.received += size as u64;
                if matches!(client.state, State::Shaking | State::Open) {
                    self.open_bytes(key, Some((buffer, size as usize)), now);
                } else {
                    self.settle(key);
                }
            }
            (result, _) if result == -libc::ENOBUFS => self.starved.push(key),
            (result, _) if result == -libc::ECANCELED || result > 0 => self.settle(key),
            // Under TLS only its own alert ends an answer; a bare end may have been cut by anybody.
            (0, _) if client.session.is_plain() => self.lose(key, Cause::Ended, now),
            (result, _) => {
                if result < 0 && self.tally.journal.is_kept() {
                    self.why = io::Error::from_raw_os_error(-result).to_string().into();
                }
                self.lose(key, Cause::Failed, now);
            }
        }
    }

    /// Opens received bytes (or begins the handshake) and acts on what they say.
    pub fn open_bytes(&mut self, key: u32, lent: Option<(u16, usize)>, now: Instant) {
        let Client { session, exchange, staged, .. } = &mut self.clients[key as usize];
        take_spare(&mut self.spares, staged);
        let bytes = match lent {
            Some((buffer, size)) => self.buffers.filled(buffer, size),
            None => &mut [],
        };
        let (plan, answered) = (self.plan, &mut self.answered);
        let opened = session.open(bytes, staged, |content| exchange.read(plan, content, now, answered));
        self.judge(key, now);
        match opened {
            Ok(Opened { is_ready, has_ended }) => {
                if is_ready && self.clients[key as usize].state == State::Shaking {
                    self.ready(key, now);
                }
                if has_ended {
                    return self.lose(key, Cause::Ended, now);
                }
                if lent.is_some() && self.clients[key as usize].state == State::Open {
                    self.pace(key, now);
                }
                self.advance(key, now);
            }
            Err(SessionError::Tls(error)) => {
                self.remember(|| error.to_string());
                self.why = error.to_string().into();
                self.lose(key, Cause::Tls, now);
            }
            Err(SessionError::Content(wrong)) => self.lose(key, Cause::Wrong(wrong), now),
        }
    }

    pub fn sent(&mut self, key: u32, result: i32, now: Instant) {
        let client = &mut self.clients[key as usize];
        client.send = Flight::Idle;
        if client.has_shut {
            return self.settle(key);
        }
        let Ok(size) = usize::try_from(result) else {
            client.sending.clear();
            (client.sent, client.cannot_send) = (0, true);
            return match client.state {
                // What came before the end is still to be read; the armed receive tells it, and then the end.
                State::Shaking | State::Open if client.receive == Flight::Idle => {
                    self.lose(key, Cause::Failed, now)
                }
                _ => self.settle(key),
            };
        };
        self.tally.sent += size as u64;
        client.sent += size;
        client.last_traffic = now;
        if client.sent >= client.sending.len() {
            client.sending.clear();
            client.sent = 0;
            if client.is_leaving
                && !client.has_shut
                && client.staged.is_empty()
                && client.state == State::Open
            {
                // A server that overlooks the alert sees this. Awaited like a send: the kernel does it later, on another
                // thread, and would end whatever connection had the slot by then.
                (client.has_shut, client.send) = (true, Flight::Armed);
                self.ring.shut_down(client.slot, client.tag(key, Operation::Send));
            }
        }
        match client.state {
            State::Open if client.exchange.is_uploading() => self.advance(key, now),
            _ => self.settle(key),
        }
    }

    /// Puts reading off, when it is paced.
    pub fn pace(&mut self, key: u32, now: Instant) {
        if let Reading::Rate(rate) = self.plan.reading {
            let client = &self.clients[key as usize];
            let interval = PACE.min(Duration::from_secs_f64(BUFFER_SIZE as f64 / rate as f64));
            self.timers.push(Reverse((now + interval, key, client.generation, Timer::Read)));
        }
    }

    /// Arms receiving as the plan reads.
    pub fn arm(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        if client.receive != Flight::Idle {
            return;
        }
        let tag = client.tag(key, Operation::Receive);
        match (self.plan.reading, client.state) {
            (Reading::Free, _) => self.ring.receive(client.slot, tag),
            (Reading::Never | Reading::Rate(_), State::Shaking) => {
                self.ring.receive_once(client.slot, BUFFER_SIZE as u32, tag)
            }
            (Reading::Rate(rate), _) => {
                let size = (rate as f64 * PACE.as_secs_f64()).ceil().clamp(1.0, BUFFER_SIZE as f64);
                self.ring.receive_once(client.slot, size as u32, tag);
            }
            (Reading::Never, _) => return,
        }
        client.receive = Flight::Armed;
    }

    /// Brings what is with the kernel in line with what the connection wants.
    pub fn settle(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        match client.state {
            State::Shaking | State::Open => {
                client.push_send(key, &mut self.ring);
                if client.state == State::Shaking || self.plan.reading == Reading::Free {
                    self.arm(key);
                }
                self.spare(key);
            }
            State::Closing { is_slot_closing: true, .. } => {}
            State::Closing { is_polite, .. } => {
                if is_polite {
                    client.push_send(key, &mut self.ring);
                }
                if !is_polite && client.send == Flight::Armed {
                    // A connect in flight is known by its own tag.
                    self.ring.cancel(client.tag(key, Operation::Send));
                    self.ring.cancel(client.tag(key, Operation::Connect));
                    client.send = Flight::Cancelling;
                }
                if client.send != Flight::Idle {
                    return;
                }
                if client.receive == Flight::Armed {
                    self.ring.cancel(client.tag(key, Operation::Receive));
                    client.receive = Flight::Cancelling;
                }
                if client.receive == Flight::Idle {
                    client.state = State::Closing { is_polite, is_slot_closing: true };
                    self.ring.close(client.slot, client.tag(key, Operation::Close));
                }
            }
            State::Waiting | State::Connecting | State::Done => {}
        }
    }

    /// Gives emptied buffers to whoever sends next: most clients are idle most of the time.
    pub fn spare(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        if client.send == Flight::Idle && client.exchange.outstanding() == 0 {
            for buffer in [&mut client.staged, &mut client.sending] {
                if buffer.capacity() > 0 && buffer.is_empty() {
                    let buffer = std::mem::take(buffer);
                    if self.spares.len() < SPARES_MAX && buffer.capacity() <= 2 * STAGED_SIZE_MAX {
                        self.spares.push(buffer);
                    }
                }
            }
        }
    }
}
