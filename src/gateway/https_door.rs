//! How connection points attach that come by HTTPS where clients do: known by the TLS handshake, heard on the shard
//! that accepted them, judged by shard 0, which knows every seat. Their channel goes to the shard that others of its
//! number go to, or stays where it is: a kernel before Linux 6.8 does not let it go.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::GatewayMessage;
use super::client::Present;
use super::connection_point::{self, Arrival, Attendant, Direct, Entrance, Seat, within};
use super::gate::Gate;
use crate::auth::{InternalName, InternalRole};
use crate::channel::{Hello, HelloRefusal, Transport};
use crate::limits;
use crate::transport::Wire;

/// Number of the site, or why not.
type Verdict = Result<usize, HelloRefusal>;

/// A hello for shard 0 to judge.
pub struct Knock {
    /// Shard that heard it.
    pub from: usize,
    /// Its number there.
    pub number: u64,
    /// Whose certificate was shown.
    pub name: InternalName,
    /// What was said.
    pub hello: Hello,
}

/// What shard 0 makes of one.
pub struct Judged {
    /// Its number on its shard.
    pub number: u64,
    /// Taken, if it is welcome.
    pub seat: Seat,
    /// Whether it is.
    pub verdict: Verdict,
}

/// Who comes in on one shard.
#[derive(Default)]
pub struct Questions {
    /// Hellos whose verdict is awaited or not taken yet.
    asked: RefCell<HashMap<u64, Question>>,
    entrance: Rc<Entrance>,
}

#[derive(Default)]
struct Question {
    verdict: Option<Verdict>,
    waker: Option<Waker>,
}

/// Lets a connection point in whose handshake is done. It has its place among clients until it is a channel, or is
/// none: whoever holds some internal key cannot stand there uncounted.
pub fn enter(gate: &Rc<Gate>, wire: Wire, client: Present) {
    let (gate, peer) = (gate.clone(), client.peer);
    let place = gate.questions.entrance.admit(peer.ip().into());
    place.is_known();
    gate.shard.clone().spawn("channel hello", async move {
        let entered = place.unless_shown_out(attach(&gate, wire, peer)).await;
        if let Err(error) = entered
            && gate.records.strangers.admits(&gate.shard)
        {
            tracing::warn!(%peer, %error, "a connection point could not attach");
        }
        drop(client);
    });
}

async fn attach(gate: &Rc<Gate>, mut wire: Wire, peer: SocketAddr) -> io::Result<()> {
    let transport = Transport::Https;
    let deadline = gate.shard.deadline();
    deadline.set(gate.shard.now(), limits::HELLO_WITHIN);
    let name = connection_point::name_of(&wire)?;
    if name.role != InternalRole::Connector {
        return Err(io::Error::other(format!("it is no connection point but {name}")));
    }
    let hello = within(&deadline, connection_point::hear_hello(&mut wire, transport)).await?;
    let (seat, point) = (connection_point::seat_of(&hello), name.name.clone());
    let version = hello.version;
    let verdict = within(&deadline, ask(gate, name, hello)).await?;
    let given = Given { gate, seat: verdict.is_ok().then_some(seat) };
    let wanted = usize::from(seat.1) % gate.port.shards();
    let stays = wanted == gate.shard.index || verdict.is_err();
    let fd = if stays { None } else { within(&deadline, portable(&wire)).await? };
    let shard = if fd.is_some() { wanted } else { gate.shard.index };
    let answer = connection_point::answer(gate, &mut wire, version, verdict, shard);
    let site = within(&deadline, answer).await?;
    given.keep();
    let attendant = Attendant { site, point, seat, peer, transport, is_among_clients: true };
    match fd {
        None => connection_point::drive(gate, wire, attendant, Some(Direct::new(gate))),
        Some(fd) => {
            let arrival = Arrival { parts: wire.into_parts_with(fd), attendant };
            gate.port.send(shard, GatewayMessage::Arrival(Box::new(arrival)));
        }
    }
    Ok(())
}

async fn portable(wire: &Wire) -> io::Result<Option<OwnedFd>> {
    Ok(wire.portable().await)
}

/// A seat that was given to a channel which may not come about: then it is free again.
struct Given<'g> {
    gate: &'g Gate,
    seat: Option<Seat>,
}

impl Given<'_> {
    fn keep(mut self) {
        self.seat = None;
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat {
            self.gate.port.send(0, GatewayMessage::Left(seat));
        }
    }
}

/// Has shard 0 judge a hello.
async fn ask(gate: &Rc<Gate>, name: InternalName, hello: Hello) -> io::Result<Verdict> {
    let number = gate.shard.next_id();
    let asked = Asked { gate: gate.clone(), number, seat: connection_point::seat_of(&hello) };
    gate.questions.asked.borrow_mut().insert(number, Question::default());
    let from = gate.port.here();
    gate.port.send(0, GatewayMessage::Knocked(Box::new(Knock { from, number, name, hello })));
    std::future::poll_fn(|context| asked.poll(context.waker())).await
}

/// A question that waits for its answer. One that is given up, for it is late, gives its seat back.
struct Asked {
    gate: Rc<Gate>,
    number: u64,
    seat: Seat,
}

impl Asked {
    fn poll(&self, waker: &Waker) -> Poll<io::Result<Verdict>> {
        let mut questions = self.gate.questions.asked.borrow_mut();
        let Some(question) = questions.get_mut(&self.number) else {
            return Poll::Ready(Err(io::Error::other("nobody judges its hello")));
        };
        if let Some(verdict) = question.verdict.take() {
            return Poll::Ready(Ok(verdict));
        }
        question.waker = Some(waker.clone());
        Poll::Pending
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let question = self.gate.questions.asked.borrow_mut().remove(&self.number);
        if matches!(question, Some(Question { verdict: Some(Ok(_)), .. })) {
            self.gate.port.send(0, GatewayMessage::Left(self.seat));
        }
    }
}

impl Gate {
    /// Shard 0 has judged a hello of this shard.
    pub fn hear_judged(&self, judged: Judged) {
        let Judged { number, seat, verdict } = judged;
        let mut questions = self.questions.asked.borrow_mut();
        let Some(question) = questions.get_mut(&number) else {
            drop(questions);
            if verdict.is_ok() {
                self.port.send(0, GatewayMessage::Left(seat));
            }
            return;
        };
        question.verdict = Some(verdict);
        if let Some(waker) = question.waker.take() {
            waker.wake();
        }
    }
}
