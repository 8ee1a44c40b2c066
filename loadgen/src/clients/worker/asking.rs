//! What is asked and when, and what answers mean.

use super::super::client::State;
use super::super::exchange::{Answered, PIECE_SIZE, Wrong};
use super::super::shared::Phase;
use super::super::work::{Answer, Life, Stand};
use super::ending::{Cause, REST};
use super::{BUSY_WAIT, STAGED_SIZE_MAX, Timer, Worker, take_spare};
use crate::report::Entry;
use std::cmp::Reverse;
use std::time::Instant;

impl Worker<'_> {
    /// Counts the answers that just came.
    pub fn judge(&mut self, key: u32, now: Instant) {
        let mut answered = std::mem::take(&mut self.answered);
        for answer in answered.drain(..) {
            let is_measured = self.is_measured(answer.planned);
            let client = &mut self.clients[key as usize];
            client.rested = false;
            let is_content = tell(&mut client.life, &answer, now);
            if answer.is_right && !is_content {
                self.tally.failures.wrong_body += 1;
                self.note_wrong(key, &answer, now);
                continue;
            }
            if answer.is_right {
                self.tally.set_measuring(is_measured);
                let windows = self.plan.windows.as_ref();
                let name = windows.map_or(answer.name, |windows| windows.kind(answer.planned, now) as u16);
                self.tally.answered(now - self.shared.start, answer.latency, name, answer.status);
                self.tally.journal.answered(now - self.shared.start, client.target);
                self.last_answer = now;
                self.served += u64::from(!client.was_served);
                (client.was_served, client.trying_since) = (true, None);
                client.failures_in_row = 0;
                if let Some(every) = self.plan.every {
                    client.ask_at = now + every;
                    self.timers.push(Reverse((client.ask_at, key, client.generation, Timer::Ask)));
                }
                continue;
            }
            self.note_status(key, &answer, now);
            let client = &mut self.clients[key as usize];
            *self.tally.failures.status.entry(answer.status).or_default() += 1;
            if answer.status >= 500 || answer.status == 429 {
                client.ask_at = now + BUSY_WAIT;
                self.timers.push(Reverse((client.ask_at, key, client.generation, Timer::Ask)));
                self.put_back(key, 1);
                self.has_failed(key, now);
            }
        }
        self.answered = answered;
    }

    /// Takes down an answer whose status was not expected.
    fn note_status(&mut self, key: u32, answer: &Answered, now: Instant) {
        let entry = Entry {
            at: now - self.shared.start,
            kind: "status",
            target: self.clients[key as usize].target,
            id: Some(answer.id),
            asked: Some(now - answer.asked),
            status: Some(answer.status),
            text: answer.reason.clone(),
            is_begun: true,
            ..Entry::default()
        };
        self.tally.journal.note(entry);
    }

    /// Takes down an answer that a script finds wrong.
    fn note_wrong(&mut self, key: u32, answer: &Answered, now: Instant) {
        let entry = Entry {
            at: now - self.shared.start,
            kind: Cause::Wrong(Wrong::Content).kind(),
            target: self.clients[key as usize].target,
            id: Some(answer.id),
            asked: Some(now - answer.asked),
            status: Some(answer.status),
            is_begun: true,
            ..Entry::default()
        };
        self.tally.journal.note(entry);
    }

    /// Asks what may be asked, sends what is staged, closes what is finished.
    pub fn advance(&mut self, key: u32, now: Instant) {
        if self.clients[key as usize].state == State::Open {
            if self.clients[key as usize].has_given_up {
                return self.close(key, true);
            }
            if self.write(key, now).is_err() {
                return self.lose(key, Cause::Tls, now);
            }
            let client = &self.clients[key as usize];
            let is_used_up = client.exchange.is_closing()
                || client.is_renewing
                || self.plan.churn.is_some_and(|churn| client.asked_here >= churn);
            let is_used_up = self.follow_script(key) || is_used_up;
            let client = &self.clients[key as usize];
            let may_end =
                self.phase != Phase::Connecting && client.exchange.outstanding() == 0 && !client.is_leaving;
            if may_end && (is_used_up || !self.has_work(key)) {
                return self.close(key, true);
            }
        }
        self.settle(key);
    }

    /// Sets the timer a script waits for. Whether it needs no connection meanwhile.
    pub fn follow_script(&mut self, key: u32) -> bool {
        let client = &mut self.clients[key as usize];
        let generation = client.generation;
        match client.life.script().map(|script| script.stand()) {
            Some(Stand::Until(at)) if at > client.ask_at => {
                client.ask_at = at;
                self.timers.push(Reverse((at, key, generation, Timer::Ask)));
                false
            }
            Some(Stand::Away(_)) => true,
            Some(Stand::Until(_) | Stand::Ready | Stand::Done) | None => false,
        }
    }

    /// Stages requests and pieces of bodies.
    pub fn write(&mut self, key: u32, now: Instant) -> Result<(), rustls::Error> {
        while self.clients[key as usize].staged.len() < STAGED_SIZE_MAX {
            self.plain.clear();
            let is_more = self.write_plain(key, now);
            if !self.plain.is_empty() {
                let client = &mut self.clients[key as usize];
                take_spare(&mut self.spares, &mut client.staged);
                client.session.seal(&self.plain, &mut client.staged)?;
            }
            if !is_more {
                break;
            }
        }
        Ok(())
    }

    /// Writes up to about one record of requests. Whether there may be more.
    pub fn write_plain(&mut self, key: u32, now: Instant) -> bool {
        while self.plain.len() < PIECE_SIZE {
            let client = &mut self.clients[key as usize];
            if client.exchange.is_uploading() && !client.exchange.is_closing() {
                client.exchange.write_body(&mut self.plain);
            } else if self.may_ask(key, now) {
                let client = &mut self.clients[key as usize];
                if client.exchange.outstanding() == 0 {
                    let rest = now - client.last_traffic;
                    (client.rested, client.rest) = (client.asked_here > 0 && rest >= REST, Some(rest));
                    client.last_traffic = now;
                } else {
                    client.rest = None;
                }
                client.asked_here += 1;
                match client.life.script().map(|script| script.take()) {
                    None => {
                        let planned = self.take_work(key, now);
                        let client = &mut self.clients[key as usize];
                        client.exchange.ask(self.plan, self.next_id, planned, now, &mut self.plain);
                        self.next_id += 1;
                    }
                    Some(None) => return false,
                    Some(Some((id, request))) => {
                        client.exchange.ask_order(id, *request, now, now, &mut self.plain);
                    }
                }
            } else {
                return false;
            }
        }
        true
    }

    pub fn may_ask(&mut self, key: u32, now: Instant) -> bool {
        let client = &self.clients[key as usize];
        let is_planned = self.starts.is_none() || !client.due.is_empty();
        let may = (self.starts.is_some() || self.phase != Phase::Ending)
            && self.phase != Phase::Connecting
            && is_planned
            && !client.is_renewing
            && !client.exchange.is_closing()
            && client.exchange.outstanding() < self.plan.pipeline
            && self.plan.churn.is_none_or(|churn| client.asked_here < churn)
            && now >= client.ask_at
            && self.has_work(key);
        let client = &mut self.clients[key as usize];
        match client.life.script() {
            Some(script) if may => {
                client.exchange.outstanding() == 0 && script.look(&mut self.next_id, now) == Stand::Ready
            }
            Some(_) | None => may,
        }
    }

    /// Whether the client has anything to ask, or may get something.
    pub fn has_work(&self, key: u32) -> bool {
        let client = &self.clients[key as usize];
        if client.has_given_up {
            return false;
        }
        if let Some(starts) = &self.starts {
            return !client.due.is_empty() && !self.shared.is_interrupted() || starts.has_more();
        }
        let has_more = match &client.life {
            Life::Fixed => self.pool.unwrap_or(client.left) > 0,
            Life::Scripted(script) => script.stand() != Stand::Done,
        };
        self.phase != Phase::Ending && has_more
    }

    /// Takes one request of those that are left. When it was to start.
    pub fn take_work(&mut self, key: u32, now: Instant) -> Instant {
        let client = &mut self.clients[key as usize];
        let Some(starts) = &mut self.starts else {
            *self.pool.as_mut().unwrap_or(&mut client.left) -= 1;
            return now;
        };
        starts.took(1);
        let planned = client.due.pop_front().expect("only what is due may be asked");
        if self.is_measured(planned) {
            self.tally.punctuality.sent(now - planned);
        }
        planned
    }

    /// Requests of the plan that must be asked again. A script was told what became of its request, and says so itself; in an
    /// open loop what failed has failed, for its time is over.
    pub fn put_back(&mut self, key: u32, requests: usize) {
        if self.starts.is_some() || matches!(self.clients[key as usize].life, Life::Scripted(_)) {
            return;
        }
        *self.pool.as_mut().unwrap_or(&mut self.clients[key as usize].left) += requests as u64;
    }
}

/// Tells a script what came of its request. Whether it finds that right.
fn tell(life: &mut Life, answered: &Answered, now: Instant) -> bool {
    let Life::Scripted(script) = life else { return true };
    let (head, body) = answered.kept.as_ref().map_or((&[][..], &[][..]), |kept| (&kept.head, &kept.body));
    let Answered { status, size, latency, differs_at, .. } = *answered;
    script.answered(&Answer { status, size, elapsed: latency, head, body, differs_at }, now)
}
