//! How connections end: what each end means, when a client gives up, and what follows.

use super::super::client::State;
use super::super::exchange::{Exchange, Wrong};
use super::super::options::{Amount, Reading};
use super::super::session::Session;
use super::super::shared::Phase;
use super::super::work::{NO_ANSWER, Stand};
use super::{SPARES_MAX, Worker};
use crate::report::Entry;
use std::time::{Duration, Instant};

/// A connection without traffic for so long is at rest: that its server closes it just now is nobody's fault.
pub const REST: Duration = Duration::from_secs(1);

/// Why a connection ends that we did not want to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server ended it.
    Ended,
    /// The system says it broke.
    Failed,
    /// TLS went wrong.
    Tls,
    /// Nothing moved for too long.
    Timeout,
    /// An answer was wrong.
    Wrong(Wrong),
}

impl Cause {
    /// As the log of failures calls it, of a connection that was ready.
    pub fn kind(self) -> &'static str {
        match self {
            // Nobody but the server can say goodbye in TLS.
            Self::Ended => "goodbye",
            Self::Failed => "cut",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Wrong(Wrong::Id) => "wrong id",
            Self::Wrong(Wrong::Content) => "wrong body",
            Self::Wrong(Wrong::Malformed) => "malformed",
        }
    }

    /// As a script tells it.
    fn text(self) -> &'static str {
        match self {
            Self::Ended => "the connection ended before the answer",
            Self::Failed => "the connection broke before the answer",
            Self::Tls => "TLS failed",
            Self::Timeout => "no answer in time",
            Self::Wrong(Wrong::Id) => "an answer to another request",
            Self::Wrong(Wrong::Content) => "an answer with other content",
            Self::Wrong(Wrong::Malformed) => NO_ANSWER,
        }
    }
}

impl Worker<'_> {
    /// The connection ended, or must end, without our wish: counts what that means.
    pub fn lose(&mut self, key: u32, cause: Cause, now: Instant) {
        self.note_shaking(key, cause, now);
        let client = &mut self.clients[key as usize];
        let failures = &mut self.tally.failures;
        match client.state {
            State::Waiting | State::Done => return,
            State::Closing { .. } => {
                client.cannot_send = true;
                return self.settle(key);
            }
            State::Connecting | State::Shaking => {
                match cause {
                    Cause::Timeout => failures.timeout += 1,
                    Cause::Wrong(_) => failures.malformed += 1,
                    Cause::Ended | Cause::Failed
                        if client.state == State::Connecting || client.session.is_plain() =>
                    {
                        failures.connect += 1
                    }
                    Cause::Ended | Cause::Failed | Cause::Tls => failures.tls += 1,
                }
                self.arrive(key);
                self.has_failed(key, now);
                if self.plan.is_handshakes_only() {
                    self.put_back(key, 1);
                }
            }
            State::Open => self.lose_open(key, cause, now),
        }
        self.close(key, false);
    }

    /// The same, of a connection that was ready.
    pub fn lose_open(&mut self, key: u32, cause: Cause, now: Instant) {
        let client = &mut self.clients[key as usize];
        if client.is_leaving {
            return self.left(key, cause, now);
        }
        if cause == Cause::Ended {
            match client.exchange.handle_end(self.plan, now, &mut self.answered) {
                Ok(_) => self.judge(key, now),
                Err(wrong) => return self.lose_open(key, Cause::Wrong(wrong), now),
            }
        }
        let client = &mut self.clients[key as usize];
        let outstanding = client.exchange.outstanding();
        let failures = &mut self.tally.failures;
        let is_recent = client.exchange.asked_at().is_some_and(|at| now - at < REST);
        let (mut lost, mut is_unread) = (outstanding, false);
        match cause {
            Cause::Wrong(wrong) => {
                match wrong {
                    Wrong::Id => failures.wrong_id += 1,
                    Wrong::Content => failures.wrong_body += 1,
                    Wrong::Malformed => failures.malformed += 1,
                }
                lost = lost.saturating_sub(1);
            }
            Cause::Timeout => failures.timeout += outstanding as u64,
            Cause::Tls => failures.tls += 1,
            Cause::Ended | Cause::Failed if self.phase == Phase::Ending => {}
            Cause::Ended | Cause::Failed if outstanding == 0 && client.exchange.is_closing() => {}
            Cause::Ended | Cause::Failed if outstanding == 0 => {
                self.tally.closed_idle += 1;
                // A server that takes clients only to close them is not asked again at once.
                client.failures_in_row += u32::from(now - client.began < REST);
            }
            Cause::Ended | Cause::Failed if client.rested && is_recent && client.exchange.is_unanswered() => {
                self.tally.closed_unread += outstanding as u64;
                is_unread = true;
            }
            Cause::Ended | Cause::Failed => failures.cut += outstanding as u64,
        }
        self.note_lost(key, cause, is_unread, now);
        self.put_back(key, lost);
        if is_unread {
            self.put_back_due(key);
        }
        if outstanding > 0
            && let Some(script) = self.clients[key as usize].life.script()
        {
            script.lost(cause.text(), now);
        }
        if outstanding > 0 || matches!(cause, Cause::Tls | Cause::Wrong(_)) {
            self.has_failed(key, now);
        }
    }

    /// Takes down a connection that does not become ready.
    fn note_shaking(&mut self, key: u32, cause: Cause, now: Instant) {
        let client = &self.clients[key as usize];
        let text = std::mem::take(&mut self.why);
        let kind = match (client.state, cause) {
            (State::Connecting, Cause::Timeout) => "connect timeout",
            (State::Connecting, _) => "connect",
            (State::Shaking, Cause::Ended | Cause::Failed) => "handshake",
            (State::Shaking, Cause::Timeout) => "handshake timeout",
            (State::Shaking, Cause::Tls | Cause::Wrong(_)) => cause.kind(),
            (State::Open, _) => {
                self.why = text;
                return;
            }
            (State::Waiting | State::Closing { .. } | State::Done, _) => return,
        };
        let at = now - self.shared.start;
        self.tally.journal.note(Entry { at, kind, target: client.target, text, ..Entry::default() });
    }

    /// Takes down the requests of a connection that ended, as they were counted.
    fn note_lost(&mut self, key: u32, cause: Cause, is_unread: bool, now: Instant) {
        let client = &self.clients[key as usize];
        let text = std::mem::take(&mut self.why);
        let at = now - self.shared.start;
        let is_ending = self.phase == Phase::Ending && matches!(cause, Cause::Ended | Cause::Failed);
        if !self.tally.journal.is_kept() || is_ending {
            return;
        }
        let one =
            Entry { at, kind: cause.kind(), target: client.target, text, is_unread, ..Entry::default() };
        if client.exchange.outstanding() == 0 {
            match cause {
                Cause::Wrong(_) => self.tally.journal.note(Entry { kind: "unasked", ..one }),
                Cause::Tls => self.tally.journal.note(one),
                // At rest: nobody's failure.
                Cause::Ended | Cause::Failed | Cause::Timeout => {}
            }
            return;
        }
        // Of a wrong answer only the request that it came to is counted.
        let count = if matches!(cause, Cause::Wrong(_)) { 1 } else { usize::MAX };
        for (index, (id, asked)) in client.exchange.asked().take(count).enumerate() {
            self.tally.journal.note(Entry {
                id: Some(id),
                asked: Some(now - asked),
                rest: client.rest,
                is_begun: index == 0 && !client.exchange.is_unanswered(),
                ..one.clone()
            });
        }
    }

    /// A handshake is done and nothing is to be asked (`-m 0`): says so, and waits for the server to end the connection. Until
    /// then it may still refuse the certificate, or send what resumes the session.
    pub fn leave(&mut self, key: u32, now: Instant) {
        let client = &mut self.clients[key as usize];
        client.is_leaving = true;
        if client.session.is_plain() {
            return self.lose(key, Cause::Ended, now);
        }
        if client.session.end(&mut client.staged).is_err() {
            self.lose(key, Cause::Tls, now);
        }
    }

    /// The server ended a connection that was only to shake hands.
    fn left(&mut self, key: u32, cause: Cause, now: Instant) {
        let client = &mut self.clients[key as usize];
        let (began, failures) = (client.began, &mut self.tally.failures);
        match cause {
            Cause::Ended | Cause::Failed => {
                (client.was_served, client.trying_since, client.failures_in_row) = (true, None, 0);
                self.last_answer = now;
                self.tally.set_measuring(self.is_measured(began));
                return self.tally.answered(now - self.shared.start, now - began, 0, 0);
            }
            Cause::Timeout => failures.timeout += 1,
            Cause::Tls => failures.tls += 1,
            Cause::Wrong(_) => failures.malformed += 1,
        }
        self.put_back(key, 1);
        self.has_failed(key, now);
    }

    /// Keeps what the first failure said.
    pub fn remember(&mut self, text: impl FnOnce() -> String) {
        self.tally.first_failure.get_or_insert_with(text);
    }

    /// One more failure in a row; gives up after too long without a right answer.
    pub fn has_failed(&mut self, key: u32, now: Instant) {
        let client = &mut self.clients[key as usize];
        client.failures_in_row += 1;
        let since = *client.trying_since.get_or_insert(now);
        let is_bounded = !matches!(self.plan.amount, Amount::Lasting(_));
        if is_bounded && !client.has_given_up && now - since >= self.plan.timeout {
            client.has_given_up = true;
            self.tally.failures.abandoned += 1;
        }
    }

    /// Ends the connection; what follows is decided when its slot is free.
    pub fn close(&mut self, key: u32, is_polite: bool) {
        let client = &mut self.clients[key as usize];
        match client.state {
            State::Connecting | State::Shaking => self.connecting -= 1,
            State::Open => self.open -= 1,
            State::Closing { .. } | State::Waiting | State::Done => return,
        }
        // An answer that came before the end of its request leaves a body half sent: no alert fits behind it.
        let is_polite =
            is_polite && !client.exchange.is_uploading() && client.session.end(&mut client.staged).is_ok();
        if !is_polite {
            client.staged.clear();
        }
        client.state = State::Closing { is_polite, is_slot_closing: false };
        self.settle(key);
    }

    /// The slot is free: connect again, now or later, or never.
    pub fn closed(&mut self, key: u32, now: Instant) {
        let client = &mut self.clients[key as usize];
        self.slots.push(client.slot);
        client.session = Session::Plain;
        client.exchange = Exchange::default();
        for buffer in [&mut client.staged, &mut client.sending] {
            let mut buffer = std::mem::take(buffer);
            if buffer.capacity() > 0 && self.spares.len() < SPARES_MAX {
                buffer.clear();
                self.spares.push(buffer);
            }
        }
        client.sent = 0;
        client.state = State::Waiting;
        if !self.has_work(key) && self.phase != Phase::Connecting || self.clients[key as usize].has_given_up {
            return self.retire(key);
        }
        let client = &mut self.clients[key as usize];
        let rest = match client.life.script().map(|script| script.stand()) {
            Some(Stand::Until(at) | Stand::Away(at)) => at.saturating_duration_since(now),
            Some(Stand::Ready | Stand::Done) | None => Duration::ZERO,
        };
        match client.backoff(key).max(rest) {
            Duration::ZERO => self.to_connect.push_back(key),
            wait => self.start_at(key, now + wait),
        }
    }

    /// The client does nothing more.
    pub fn retire(&mut self, key: u32) {
        self.clients[key as usize].state = State::Done;
        self.drop_due(key);
        self.done += 1;
        self.arrive(key);
    }

    /// Ends what made no progress for too long.
    pub fn look_for_timeouts(&mut self, now: Instant) {
        for key in 0..self.clients.len() as u32 {
            let client = &self.clients[key as usize];
            let patience = self.plan.timeout + client.exchange.held();
            let is_late = now.saturating_duration_since(client.last_traffic) >= patience;
            let expects = match client.state {
                State::Connecting | State::Shaking => true,
                State::Open => {
                    client.is_leaving
                        || client.exchange.outstanding() > 0 && self.plan.reading != Reading::Never
                }
                State::Closing { is_polite: true, is_slot_closing: false } if is_late => {
                    let client = &mut self.clients[key as usize];
                    client.staged.clear();
                    client.state = State::Closing { is_polite: false, is_slot_closing: false };
                    self.settle(key);
                    false
                }
                State::Closing { .. } | State::Waiting | State::Done => false,
            };
            if expects && is_late {
                self.lose(key, Cause::Timeout, now);
            }
        }
    }
}
