//! Channels to one gateway instance, as one shard keeps them: dialled, greeted, driven, dialled again.
//!
//! Shard s of C dials index s first and learns how many shards G the instance has; then it keeps s,
//! s + C, … below n = max(G, C), so that every shard of either side has a channel to work with.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::FutureExt;
use ring::rand::{SecureRandom, SystemRandom};

use super::Here;
use super::board::Channel;
use super::exchange::Asking;
use super::head::Client;
use super::lists::Offering;
use super::names::Name;
use super::origin::connect_any;
use super::plan::InstancePlan;
use super::servants::{Job, Servants};
use super::wait::within;
use crate::auth::{InternalFault, InternalRole, internal_identity};
use crate::channel::{
    self, Acknowledgement, ChannelError, Hello, HelloRefusal, HelloReply, Identity, Publication, Side,
    VERSION, Verdict, frame,
};
use crate::limits;
use crate::transport::tls_config::CHANNEL_ALPN;
use crate::transport::{Cause, Link, LinkEvents, Stream, Tls, Wire};

/// Why a channel did not come about.
#[derive(Debug, thiserror::Error)]
enum AttachFault {
    #[error("{0}")]
    Connection(#[from] io::Error),
    #[error("no answer within {} s", limits::HELLO_WITHIN.as_secs())]
    Late,
    #[error("it speaks TLS, but not the channel protocol")]
    Alpn,
    #[error("its certificate: {0}")]
    Certificate(#[from] InternalFault),
    #[error("its certificate is not an instance's")]
    NoInstance,
    #[error("{0}")]
    Protocol(#[from] ChannelError),
    #[error("it refused the channel: {0:?} {1}")]
    Refused(HelloRefusal, String),
    #[error("it calls itself {1}, but its certificate says {0}")]
    OtherName(String, String),
}

/// See the file's head.
pub(super) struct Reach {
    here: Rc<Here>,
    instance: usize,
    name: Name,
    /// Channels that all shards together hold to the instance.
    count: Cell<u16>,
    /// Those that this shard keeps.
    kept: RefCell<Vec<u16>>,
}

impl Reach {
    /// Begins to keep this shard's channels to an instance, for as long as the shard lives.
    pub(super) fn begin(here: &Rc<Here>, instance: usize) {
        let InstancePlan { host, port, .. } = &here.plan.instances[instance];
        let reach = Rc::new(Reach {
            here: here.clone(),
            instance,
            name: Name::new(host, *port),
            count: Cell::new(here.plan.shards.min(here.plan.channels)),
            kept: RefCell::default(),
        });
        reach.keep_all();
    }

    fn plan(&self) -> &InstancePlan {
        &self.here.plan.instances[self.instance]
    }

    /// Keeps every channel of this shard that is not kept yet.
    fn keep_all(self: &Rc<Self>) {
        let step = usize::from(self.here.plan.shards);
        for index in (self.here.shard.index..usize::from(self.count.get())).step_by(step) {
            let index = u16::try_from(index).expect("below a count that is a u16");
            let mut kept = self.kept.borrow_mut();
            if !kept.contains(&index) {
                kept.push(index);
                self.here.shard.spawn("channel", self.clone().keep(index));
            }
        }
    }

    /// The instance has so many shards.
    fn learn(self: &Rc<Self>, gateway_shards: u16) {
        let bounded = gateway_shards.min(limits::SHARD_COUNT_MAX);
        self.count.set(bounded.max(self.here.plan.shards).min(self.here.plan.channels));
        self.here.board.instances[self.instance].wants(self.count.get());
        self.keep_all();
    }

    /// One channel, again and again; ends only when the instance has no place for it any more.
    async fn keep(self: Rc<Self>, index: u16) {
        let mut backoff = Backoff::default();
        let mut told = String::new();
        while !self.here.draining.get() && index < self.count.get() {
            let began = self.here.shard.now();
            // A mistake of ours in one channel's life must not keep it from having another.
            let outcome = AssertUnwindSafe(self.hold(index)).catch_unwind().await;
            let text = match outcome {
                Ok(Ok(cause)) => cause.to_string(),
                Ok(Err(fault)) => fault.to_string(),
                Err(_) => {
                    self.here.shard.panics.set(self.here.shard.panics.get() + 1);
                    "a task panicked; this is a bug of cmg".to_owned()
                }
            };
            if self.here.draining.get() {
                break;
            }
            self.tell(index, &text, &mut told);
            if self.here.shard.now().saturating_duration_since(began) >= limits::CHANNEL_SOUND_AFTER {
                backoff = Backoff::default();
                told.clear();
            }
            self.here.shard.sleep(backoff.next(random())).await;
        }
        self.kept.borrow_mut().retain(|kept| *kept != index);
    }

    /// Says what is wrong once, not at each attempt.
    fn tell(&self, index: u16, text: &str, told: &mut String) {
        let instance = &self.plan().dialled;
        self.here.board.instances[self.instance].is_in_trouble(text);
        if text != told {
            tracing::warn!(instance, index, "no channel: {text}");
            text.clone_into(told);
        }
    }

    /// One channel from its dialling to its end.
    async fn hold(self: &Rc<Self>, index: u16) -> Result<Cause, AttachFault> {
        let attached = within(&self.here.shard, limits::HELLO_WITHIN, self.attach(index)).await;
        let (wire, reply) = attached.ok_or(AttachFault::Late)??;
        let instance = &self.plan().dialled;
        tracing::info!(instance, name = reply.instance, index, shard = reply.shard, "channel up");
        let link = Link::new(&self.here.shard, Side::Connector, None);
        let offering = (index == 0).then(|| Offering::new(&link, &self.here.plan.lists, instance));
        let _up = Up::new(self, &link, index, offering.clone());
        self.learn(reply.shards);
        if self.here.draining.get() {
            link.leave();
        }
        if index == 0 {
            link.publish(self.here.plan.revision, &self.here.plan.published);
        }
        if !self.here.plan.tokens.is_empty() {
            // On every channel: it must be heard as soon as one of them stands.
            let state = self.here.tokens.state();
            link.publish_tokens(state.revision, &state.bytes);
        }
        let events = Attached { reach: self.clone(), identities: RefCell::default(), offering };
        Ok(link.drive(wire, Rc::new(events)).await)
    }

    // ── dialling and greeting ───────────────────────────────────────────────────────────────────

    async fn attach(&self, index: u16) -> Result<(Wire, HelloReply), AttachFault> {
        let shard = &self.here.shard;
        let addresses = self.name.addresses(shard).await?;
        let socket = connect_any(shard, &addresses).await?;
        let tls = Tls::client(self.here.plan.tls.clone(), self.plan().tls_name.clone())
            .map_err(io::Error::other)?;
        let mut wire = Wire::new(socket, Some(tls));
        wire.handshake().await?;
        let instance = instance_name(&wire)?;
        let mut hello = Vec::new();
        self.hello(index, instance.clone()).encode(&mut hello);
        wire.write(&hello)?;
        wire.flush().await?;
        let reply = hear_reply(&mut wire).await?;
        match reply.refusal {
            Some(refusal) => Err(AttachFault::Refused(refusal, reply.text)),
            None if reply.version != VERSION => Err(AttachFault::Refused(HelloRefusal::Version, reply.text)),
            None if reply.instance != instance => Err(AttachFault::OtherName(instance, reply.instance)),
            None => Ok((wire, reply)),
        }
    }

    fn hello(&self, index: u16, instance: String) -> Hello {
        let plan = &self.here.plan;
        Hello {
            version: VERSION,
            connection_id: plan.connection_id,
            connection_point: plan.name.clone(),
            site: plan.site.clone(),
            index,
            count: self.count.get(),
            connector_shards: plan.shards,
            instance,
        }
    }
}

/// The instance that the peer's certificate names; the handshake proved that it is the internal CA's and
/// bears the TLS name we dialled.
fn instance_name(wire: &Wire) -> Result<String, AttachFault> {
    let tls = wire.tls().ok_or(AttachFault::Alpn)?;
    if tls.alpn() != Some(CHANNEL_ALPN) {
        return Err(AttachFault::Alpn);
    }
    let leaf = tls.peer_certificates().and_then(|chain| chain.first()).ok_or(AttachFault::NoInstance)?;
    let name = internal_identity(leaf)?;
    match name.role {
        InternalRole::Gateway => Ok(name.name),
        InternalRole::Connector => Err(AttachFault::NoInstance),
    }
}

async fn hear_reply(wire: &mut Wire) -> Result<HelloReply, AttachFault> {
    loop {
        if let Some((heard, size)) = frame::take(wire.received())? {
            if heard.kind != frame::FrameKind::HelloReply {
                return Err(ChannelError::Unexpected(heard.kind).into());
            }
            let reply = HelloReply::parse(heard.payload)?;
            wire.consume(size);
            return Ok(reply);
        }
        if !std::future::poll_fn(|context| wire.poll_fill(context)).await? {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// A channel that is up; dropped when it is not, however it ended.
struct Up {
    reach: Rc<Reach>,
    link: Rc<Link>,
    index: u16,
    offering: Option<Rc<Offering>>,
}

impl Up {
    fn new(reach: &Rc<Reach>, link: &Rc<Link>, index: u16, offering: Option<Rc<Offering>>) -> Up {
        reach.here.board.instances[reach.instance].channel_up();
        reach.here.links.borrow_mut().push(link.clone());
        let channel = Channel { instance: reach.instance, index, shard: reach.here.shard.index };
        reach.here.channels.up(channel, link);
        reach.here.offerings.borrow_mut().extend(offering.clone());
        reach.here.show();
        Up { reach: reach.clone(), link: link.clone(), index, offering }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.reach.here.board.instances[self.reach.instance].channel_down(self.index == 0);
        self.reach.here.links.borrow_mut().retain(|link| !Rc::ptr_eq(link, &self.link));
        self.reach.here.channels.down(&self.link);
        if let Some(own) = &self.offering {
            self.reach.here.offerings.borrow_mut().retain(|offering| !Rc::ptr_eq(offering, own));
        }
        self.reach.here.show();
    }
}

// ── what comes over a channel ───────────────────────────────────────────────────────────────────

struct Attached {
    reach: Rc<Reach>,
    identities: RefCell<HashMap<u32, Asking>>,
    /// On the first channel alone.
    offering: Option<Rc<Offering>>,
}

impl LinkEvents for Attached {
    fn opened(&self, _link: &Rc<Link>, stream: Stream, message: &[u8]) {
        let here = &self.reach.here;
        let asking = match channel::identity_of(message) {
            0 => Asking::Nobody,
            number => self.identities.borrow().get(&number).cloned().unwrap_or(Asking::Unreadable),
        };
        let mut copy = here.shard.ring.pool.borrow_mut().slim(message.len());
        copy.extend_from_slice(message);
        Servants::serve(here, Job { stream, message: copy, asking });
    }

    fn settings(&self, _link: &Rc<Link>, _publication: Publication) {
        // The channel itself refuses settings on this side.
    }

    fn acknowledged(&self, _link: &Rc<Link>, acknowledgement: Acknowledgement) {
        let Acknowledgement { revision, verdict, text } = acknowledgement;
        let instance = &self.reach.plan().dialled;
        let serial = revision.serial;
        let is_in_force = verdict == Verdict::InForce && revision == self.reach.here.plan.revision;
        self.reach.here.board.instances[self.reach.instance].acknowledged(is_in_force);
        if is_in_force {
            tracing::info!(instance, serial, "settings in force");
        } else {
            self.reach.here.board.instances[self.reach.instance]
                .is_in_trouble(&format!("settings {verdict:?}: {text}"));
            tracing::error!(instance, serial, ?verdict, "settings are not in force: {text}");
        }
        if let Some(offering) = &self.offering {
            offering.begin();
        }
    }

    fn list_acknowledged(&self, _link: &Rc<Link>, acknowledgement: Acknowledgement) {
        if let Some(offering) = &self.offering {
            offering.acknowledged(&acknowledgement);
        }
    }

    fn identity(&self, _link: &Rc<Link>, number: u32, bytes: &[u8]) {
        let asking = match Identity::parse(bytes) {
            Ok(identity) => Asking::Known(Rc::new(Client::new(&identity))),
            Err(error) => {
                let here = &self.reach.here;
                if here.records.identities.admits(&here.shard) {
                    tracing::warn!(instance = self.reach.plan().dialled, %error, "an identity cannot be read");
                }
                Asking::Unreadable
            }
        };
        self.identities.borrow_mut().insert(number, asking);
    }

    fn identity_gone(&self, _link: &Rc<Link>, number: u32) {
        self.identities.borrow_mut().remove(&number);
    }

    fn draining(&self, _link: &Rc<Link>) {
        // It opens no further stream, as it was asked.
    }
}

// ── waiting before the next attempt ─────────────────────────────────────────────────────────────

/// Doubles from `RECONNECT_FIRST` to `RECONNECT_LONGEST`, each wait jittered by half so that the
/// channels of many connection points do not come back in one instant.
#[derive(Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    fn next(&mut self, random: u32) -> Duration {
        let doubled = limits::RECONNECT_FIRST.saturating_mul(1 << self.attempts.min(16));
        self.attempts += 1;
        let full = doubled.min(limits::RECONNECT_LONGEST);
        full / 2 + full.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, and still a wait.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_are_jittered_by_half() {
        for random in [0, u32::MAX / 2, u32::MAX] {
            let mut backoff = Backoff::default();
            let mut before = Duration::ZERO;
            for _ in 0..100 {
                let wait = backoff.next(random);
                assert!(wait >= before && wait <= limits::RECONNECT_LONGEST);
                before = wait;
            }
            assert!(before >= limits::RECONNECT_LONGEST / 2);
        }
        assert_eq!(Backoff::default().next(u32::MAX), limits::RECONNECT_FIRST);
    }
}
