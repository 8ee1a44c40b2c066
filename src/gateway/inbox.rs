//! What a shard of the gateway does with messages from the others, and how it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::connection_point::{self, Lobby};
use super::control::{self, Publications};
use super::gate::{Counters, Gate};
use super::https_door::{Judged, Knock};
use super::{GatewayMessage, lists, report};
use crate::channel::{ListTag, Verdict};
use crate::dispatch::Parting;
use crate::limits::TOKEN_KEYS_LOOKED_AT_EVERY;

/// See the file's head.
pub struct Inbox {
    gate: Rc<Gate>,
    lobby: Rc<Lobby>,
    /// On shard 0 alone.
    publications: RefCell<Option<Publications>>,
    report: Arc<report::Gateway>,
    parting: RefCell<(Option<Parting>, Option<Waker>)>,
    counted: Cell<Instant>,
}

impl Inbox {
    /// The inbox of one shard.
    pub fn new(gate: &Rc<Gate>, report: Arc<report::Gateway>) -> Rc<Inbox> {
        Rc::new(Inbox {
            gate: gate.clone(),
            lobby: Rc::default(),
            publications: RefCell::default(),
            report,
            parting: RefCell::default(),
            counted: Cell::new(gate.shard.now()),
        })
    }

    /// Who is attached, as shard 0 knows it.
    pub fn lobby(&self) -> Rc<Lobby> {
        self.lobby.clone()
    }

    /// Shard 0 keeps what is published.
    pub fn keep(&self, publications: Publications) {
        self.report.show(&publications.in_force);
        *self.publications.borrow_mut() = Some(publications);
    }

    /// Looks again and again, for ever, whose fetched keys still count.
    pub async fn look_at_tokens(self: Rc<Self>) {
        loop {
            self.gate.shard.sleep(TOKEN_KEYS_LOOKED_AT_EVERY).await;
            if let Some(publications) = self.publications.borrow_mut().as_mut() {
                publications.look_at_tokens(&self.gate, |site, point| self.lobby.is_attached(site, point));
                self.report.show(&publications.in_force);
            }
        }
    }

    /// Handles what lies in the inbox; gives how much that was.
    pub fn turn(&self) -> usize {
        let mut count = 0;
        while count < MESSAGES_PER_TURN {
            let Some(message) = self.gate.port.receive() else { break };
            self.handle(message);
            count += 1;
        }
        if !self.gate.port.flush() {
            count += 1;
        }
        self.gate.call_handshakes();
        let now = self.gate.shard.now();
        if now.duration_since(self.counted.get()) > COUNTED_EVERY {
            self.counted.set(now);
            self.gate.publish_counts();
        }
        count
    }

    fn handle(&self, message: GatewayMessage) {
        let gate = &self.gate;
        match message {
            GatewayMessage::Cross { from, message } => gate.crossing.handle(from, message),
            GatewayMessage::Open { from, guest } => gate.open_for_guest(from, guest),
            GatewayMessage::Took { ticket } => gate.leave(ticket),
            GatewayMessage::Room { shard, site, has_room: true } => gate.hear_room_elsewhere(shard, site),
            GatewayMessage::Room { shard, site, has_room: false } => gate.line.hear_full(shard, site),
            GatewayMessage::Gone { from, client } => gate.forget_guest(from, client),
            GatewayMessage::Links { shard, site, change } => gate.hear_links(shard, site, change),
            GatewayMessage::Arrival(arrival) => connection_point::settle(gate, *arrival),
            GatewayMessage::Left(seat) => self.lobby.leave(&seat),
            GatewayMessage::Knocked(knock) => {
                let Knock { from, number, name, hello } = *knock;
                let verdict = connection_point::seat(gate, &self.lobby, &name, &hello);
                let judged = Judged { number, seat: connection_point::seat_of(&hello), verdict };
                gate.port.send(from, GatewayMessage::Judged(judged));
            }
            GatewayMessage::Judged(judged) => gate.hear_judged(judged),
            GatewayMessage::Published { from, link, site, point, publication } => {
                let mut publications = self.publications.borrow_mut();
                let Some(publications) = publications.as_mut() else { return };
                let verdict = publications.take(gate, site, &publication);
                self.report.show(&publications.in_force);
                self.report.has_published(site, &point, verdict.0);
                control::reply(gate, from, link, &publication, verdict);
            }
            GatewayMessage::Tokens { site, point, publication } => {
                if let Some(publications) = self.publications.borrow_mut().as_mut() {
                    publications.take_tokens(gate, site, &point, &publication);
                    self.report.show(&publications.in_force);
                    self.report.has_told_tokens(site, &point);
                }
            }
            GatewayMessage::Verdict { link, revision, verdict, text } => {
                gate.hear_verdict(link, revision, verdict, &text);
            }
            GatewayMessage::ListOffered { from, link, site, tag } => {
                let Some(judged) =
                    self.publications.borrow().as_ref().map(|held| held.judge_offer(site, &tag))
                else {
                    return;
                };
                self.answer_list(from, link, tag, judged);
            }
            GatewayMessage::ListCame { from, link, site, list } => {
                let Some(trust) = self.publications.borrow().as_ref().map(|held| held.trust(site)) else {
                    return;
                };
                lists::read_apart(gate, from, link, site, list, trust);
            }
            GatewayMessage::ListRead { from, link, site, list, read } => {
                let mut publications = self.publications.borrow_mut();
                let Some(publications) = publications.as_mut() else { return };
                let judged = publications.take_list(gate, site, &list, read);
                self.report.show(&publications.in_force);
                self.answer_list(from, link, list.tag, judged);
            }
            GatewayMessage::ListVerdict { link, tag, verdict, text } => {
                gate.hear_list_verdict(link, &tag, verdict, &text);
            }
            GatewayMessage::InForce(settings) => gate.put_in_force(&settings),
            GatewayMessage::Local(local) => {
                gate.take_local(&local);
                if let Some(publications) = self.publications.borrow_mut().as_mut() {
                    publications.go_on_with(gate, &local.settings);
                    self.report.show(&publications.in_force);
                }
            }
            GatewayMessage::Accept(accepts) => gate.accept(accepts),
            GatewayMessage::MakeWay(whom) => gate.make_way(whom),
            GatewayMessage::Drain => {
                let began = gate.drain();
                let mut parting = self.parting.borrow_mut();
                parting.0 = Some(began);
                if let Some(waker) = parting.1.take() {
                    waker.wake();
                }
            }
        }
    }

    fn answer_list(&self, shard: usize, link: u64, tag: ListTag, (verdict, text): (Verdict, String)) {
        self.gate.port.send(shard, GatewayMessage::ListVerdict { link, tag, verdict, text });
    }

    /// Lives until the gateway is told to drain; then waits for the requests under way, and for clients to be taken
    /// leave of, says goodbye to connection points, and ends.
    pub async fn live(&self) {
        let parting = std::future::poll_fn(|context| {
            let mut parting = self.parting.borrow_mut();
            if let Some(parting) = parting.0 {
                return Poll::Ready(parting);
            }
            parting.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        // Of all shards: a request of another may use a link of this one.
        let some = |which: fn(&Counters) -> &AtomicU64| {
            self.gate.common.counters.iter().any(|one| which(one).load(Ordering::Relaxed) > 0)
        };
        let is_wanted = |now: Instant| {
            some(|counters| &counters.active)
                || now < parting.rest_is_over() && some(|counters| &counters.clients)
        };
        loop {
            let now = self.gate.shard.now();
            if now >= parting.is_over() || !is_wanted(now) {
                break;
            }
            self.gate.shard.sleep(LOOK_EVERY).await;
        }
        self.gate.close_links();
        self.gate.shard.sleep(LOOK_EVERY).await;
    }
}

/// Leaves the turn to clients and links after so many messages.
const MESSAGES_PER_TURN: usize = 512;
/// How often the ring's counts are copied to where the admin listener reads them.
const COUNTED_EVERY: Duration = Duration::from_millis(100);
/// While draining: how often to look whether it is over; and for the last words on channels.
const LOOK_EVERY: Duration = Duration::from_millis(100);
