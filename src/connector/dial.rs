//! A connection to an instance by one of the ways that lead there, ready for the channel's hello: TCP-TLS, or HTTPS
//! changed over, directly or through a proxy.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;

use rustls::CertificateError;

use super::Here;
use super::names::Name;
use super::origin::connect_any;
use super::plan::{Instance, ProxyPlan, WayPlan};
use super::wait::within;
use crate::auth::{InternalFault, InternalRole, internal_identity};
use crate::channel::upgrade::{self, UpgradeError};
use crate::channel::{ChannelError, HelloRefusal, Transport};
use crate::http::{self, ConnectError};
use crate::limits;
use crate::shard::{Shard, Socket};
use crate::transport::{Tls, Wire};

/// Why a channel did not come about.
#[derive(Debug, thiserror::Error)]
pub enum AttachFault {
    /// TCP, TLS or the resolver.
    #[error("{0}")]
    Connection(#[from] io::Error),
    /// It takes too long.
    #[error("no answer within {} s", limits::HELLO_WITHIN.as_secs())]
    Late,
    /// Another way led there before it.
    #[error("no answer yet")]
    Slow,
    /// It agreed on another protocol, or on none.
    #[error("it speaks TLS, but not the channel protocol")]
    Alpn,
    /// The proxy, and what it says.
    #[error("the proxy {0}: {1}")]
    Proxy(String, ConnectError),
    /// HTTPS is spoken, but no channel begins.
    #[error("{0}")]
    Upgrade(#[from] UpgradeError),
    /// Its certificate bears another name than the one that is meant.
    #[error("another instance answers there")]
    Elsewhere,
    /// Its certificate names no role.
    #[error("its certificate: {0}")]
    Certificate(#[from] InternalFault),
    /// Or another one.
    #[error("its certificate is not an instance's")]
    NoInstance,
    /// The channel protocol was broken.
    #[error("{0}")]
    Protocol(#[from] ChannelError),
    /// It does not want this channel.
    #[error("it refused the channel: {0:?} {1}")]
    Refused(HelloRefusal, String),
    /// By its certificate, and by its hello.
    #[error("it calls itself {1}, but its certificate says {0}")]
    OtherName(String, String),
}

/// Dials an instance by one way; `at` is where, and where the proxy is. Behind a port that instances share any of them may answer: it is
/// dialled until the one that is meant does, by one task at a time, for an instance that is gone never does, and its
/// neighbours have its clients to greet.
pub async fn dial(
    here: &Here,
    instance: &Instance,
    way: &WayPlan,
    at: (&Name, Option<&Name>),
    is_meeting: &Cell<bool>,
) -> Result<Wire, AttachFault> {
    if !way.is_shared || is_meeting.replace(true) {
        return dial_once(here, instance, way, at).await;
    }
    let _meeting = Meeting(is_meeting);
    let mut left =
        (limits::MEET_DIALS_OF_INSTANCE * here.works().plan.instances.len()).min(limits::MEET_DIALS_MAX);
    loop {
        left -= 1;
        match dial_once(here, instance, way, at).await {
            Err(AttachFault::Elsewhere) if left > 0 => here.shard.sleep(limits::MEET_DIALS_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// It is over when this is dropped, however that came about.
struct Meeting<'r>(&'r Cell<bool>);

impl Drop for Meeting<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

async fn dial_once(
    here: &Here,
    instance: &Instance,
    way: &WayPlan,
    (name, proxy): (&Name, Option<&Name>),
) -> Result<Wire, AttachFault> {
    let (dialling, tls_name) = (&instance.dialling, &instance.plan.tls_name);
    let mut wire = match (way.transport, &dialling.proxy, proxy) {
        (Transport::HttpsByProxy, Some(proxy), Some(at)) => through(here, proxy, at, way).await?,
        _ => connect(&here.shard, name).await?,
    };
    let config = if way.transport.is_over_http() { &dialling.https_tls } else { &dialling.tls };
    let tls = Tls::client(config.clone(), tls_name.clone()).map_err(io::Error::other)?;
    wire.begin_tls(tls);
    wire.handshake().await.map_err(|error| handshake_fault(way.transport, error))?;
    if wire.tls().and_then(Tls::alpn) != Some(way.transport.alpn()) {
        return Err(AttachFault::Alpn);
    }
    if way.transport.is_over_http() {
        change_over(&mut wire, &tls_name.to_str()).await?;
    }
    Ok(wire)
}

/// Connects to the first of a name's addresses that can be had. None takes the time of the others: where packets are
/// dropped, as over IPv6 on a network that has none, nobody says no.
async fn connect(shard: &Shard, name: &Name) -> io::Result<Wire> {
    let addresses = name.addresses(shard).await?;
    let share = limits::HELLO_WITHIN / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for address in addresses.iter() {
        outcome = connect_within(shard, share, *address).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map(|socket| Wire::new(socket, None))
}

async fn connect_within(shard: &Shard, share: std::time::Duration, to: SocketAddr) -> io::Result<Socket> {
    within(shard, share, connect_any(shard, &[to])).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// A connection that the proxy made; it leads where `way` does.
async fn through(here: &Here, proxy: &ProxyPlan, at: &Name, way: &WayPlan) -> Result<Wire, AttachFault> {
    let refused = |error| AttachFault::Proxy(proxy.dialled.clone(), error);
    let mut wire = connect(&here.shard, at).await?;
    let mut out = Vec::new();
    http::write_connect(&mut out, &way.dialled, proxy.authorization.as_deref());
    wire.write(&out)?;
    wire.flush().await?;
    loop {
        if let Some(size) = http::read_connected(wire.received()).map_err(refused)? {
            wire.consume(size);
            return Ok(wire);
        }
        hear_more(&mut wire).await?;
    }
}

/// Has HTTPS become a channel.
async fn change_over(wire: &mut Wire, host: &str) -> Result<(), AttachFault> {
    let mut out = Vec::new();
    upgrade::write_ask(&mut out, host);
    wire.write(&out)?;
    wire.flush().await?;
    loop {
        if let Some(size) = upgrade::read_answer(wire.received())? {
            wire.consume(size);
            return Ok(());
        }
        hear_more(wire).await?;
    }
}

/// Waits for bytes more; the end of the connection is an error.
pub async fn hear_more(wire: &mut Wire) -> io::Result<()> {
    match std::future::poll_fn(|context| wire.poll_fill(context)).await? {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Where instances share a port, another name is no mistake.
fn handshake_fault(transport: Transport, error: io::Error) -> AttachFault {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_elsewhere = matches!(
        of_tls,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        ))
    );
    if is_elsewhere && transport.is_over_http() { AttachFault::Elsewhere } else { error.into() }
}

/// The instance that the peer's certificate names; the handshake proved that it is the internal CA's and
/// bears the TLS name we dialled.
pub fn instance_name(wire: &Wire) -> Result<String, AttachFault> {
    let tls = wire.tls().ok_or(AttachFault::Alpn)?;
    let leaf = tls.peer_certificates().and_then(|chain| chain.first()).ok_or(AttachFault::NoInstance)?;
    let name = internal_identity(leaf)?;
    match name.role {
        InternalRole::Gateway => Ok(name.name),
        InternalRole::Connector => Err(AttachFault::NoInstance),
    }
}
