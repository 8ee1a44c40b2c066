//! Where connections to origins come from: source addresses, and how many of their ports are in use.
//!
//! A port is free or not for one source address and one address of an origin; so that is what is counted,
//! over all shards of the process. The kernel chooses the port when it connects, never before, so that one
//! port serves for every origin.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::origin::Kind;
use crate::headroom::{Limit, Reading};
use crate::limits;
use crate::metrics::Headroom;
use crate::shard::{Shard, Socket};
use crate::transport::listen::{self, PortRange};

/// See the file's head.
pub struct Sources {
    /// None: the kernel chooses.
    addresses: ArcSwap<Vec<IpAddr>>,
    turn: AtomicUsize,
    ways: Mutex<BTreeMap<Ends, Arc<Way>>>,
    /// Read again each second: it may be widened while we run.
    ports: ArcSwap<PortRange>,
    headroom: Arc<Headroom>,
}

/// Source, where it is ours to choose, and target.
type Ends = (Option<IpAddr>, SocketAddr);

/// From one source address to one address of an origin.
struct Way {
    from: Option<IpAddr>,
    to: SocketAddr,
    used: AtomicUsize,
    /// Of these, those of held requests.
    held: AtomicUsize,
    /// Connections tried on it; chooses the slice of ports.
    tried: AtomicUsize,
}

/// A port in use, as long as this lives.
struct Claim(Arc<Way>, Kind);

impl Claim {
    /// One of `ports`; `None` where held requests have their share.
    fn new(way: &Arc<Way>, kind: Kind, ports: u64) -> Option<Claim> {
        way.used.fetch_add(1, Ordering::Relaxed);
        let claim = Claim(way.clone(), kind);
        match kind {
            Kind::Ordinary => Some(claim),
            Kind::Held => {
                let before = way.held.fetch_add(1, Ordering::Relaxed) as u64;
                (before < share_of_held(ports)).then_some(claim)
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Claim(way, kind) = self;
        way.used.fetch_sub(1, Ordering::Relaxed);
        match kind {
            Kind::Ordinary => {}
            Kind::Held => _ = way.held.fetch_sub(1, Ordering::Relaxed),
        }
    }
}

/// Of so many ports those that held requests may use.
fn share_of_held(ports: u64) -> u64 {
    ports * limits::HELD_PORTS_PERCENT / 100
}

/// No source address has a port left towards an origin.
#[derive(Debug, thiserror::Error)]
pub enum PortsUsedUp {
    /// None at all.
    #[error("none of {0} source addresses has a port left: {WHAT_TO_DO}")]
    ForAll(usize),
    /// None that a held request may have.
    #[error(
        "held requests may use {percent} % of the ports of a source address, and none of {0} has one left \
         for them: {WHAT_TO_DO}",
        percent = limits::HELD_PORTS_PERCENT
    )]
    ForHeld(usize),
}

const WHAT_TO_DO: &str = "name more in connector.source_addresses, or widen net.ipv4.ip_local_port_range";

impl Way {
    fn name(&self) -> String {
        match self.from {
            Some(from) => format!("{from} to {}", self.to),
            None => self.to.to_string(),
        }
    }

    /// All of `ports`, and where requests are held the share of these.
    fn readings(&self, ports: u64) -> impl Iterator<Item = Reading> {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u64;
        let (used, held) = (count(&self.used), count(&self.held));
        let all = Reading { limit: Limit::SourcePorts, of: self.name(), used, max: ports };
        let share =
            || Reading { limit: Limit::HeldPorts, of: self.name(), used: held, max: share_of_held(ports) };
        std::iter::once(all).chain((held > 0).then(share))
    }
}

impl Sources {
    /// Of these addresses, in turn; of none the kernel chooses.
    pub fn new(addresses: &[IpAddr], headroom: &Arc<Headroom>) -> Sources {
        let (turn, ways) = Default::default();
        let ports = ArcSwap::from_pointee(PortRange::of_kernel());
        let addresses = ArcSwap::from_pointee(addresses.to_vec());
        Sources { addresses, turn, ways, ports, headroom: headroom.clone() }
    }

    /// Connections come from these from now on; those that stand stay.
    pub fn come_from(&self, addresses: &[IpAddr]) {
        if **self.addresses.load() != addresses {
            self.addresses.store(Arc::new(addresses.to_vec()));
        }
    }

    /// A connection to the first of these addresses that accepts.
    ///
    /// # Errors
    /// What the last of them said; [`PortsUsedUp`] where no source address had a port.
    pub async fn connect(&self, shard: &Shard, addresses: &[SocketAddr], kind: Kind) -> io::Result<Socket> {
        let mut outcome = Err(io::ErrorKind::NotFound.into());
        for address in addresses {
            match self.connect_to(shard, *address, kind).await {
                Ok(socket) => return Ok(socket),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// What is in use on each way.
    pub fn readings(&self) -> Vec<Reading> {
        let range = PortRange::of_kernel();
        self.ports.store(Arc::new(range));
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        // Names move: a way without a connection is made again when there is one.
        ways.retain(|_, way| Arc::strong_count(way) > 1 || way.used.load(Ordering::Relaxed) > 0);
        ways.values().flat_map(|way| way.readings(range.count().into())).collect()
    }

    async fn connect_to(&self, shard: &Shard, to: SocketAddr, kind: Kind) -> io::Result<Socket> {
        let ways = self.ways(to);
        let mut refused = None;
        let mut used_up = PortsUsedUp::ForAll(ways.len());
        for way in &ways {
            match self.connect_by(shard, way, kind).await {
                Ok(socket) => return Ok(socket),
                Err(Tried::NoPort) => {}
                Err(Tried::NoShare) => used_up = PortsUsedUp::ForHeld(ways.len()),
                Err(Tried::NoSource(error)) => refused = Some(error),
                Err(Tried::Failed(error)) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, used_up)))
    }

    /// Those with the fewest ports in use first; of the same number in turn.
    fn ways(&self, to: SocketAddr) -> Vec<Arc<Way>> {
        let fits = |from: &&IpAddr| from.is_ipv4() == to.is_ipv4();
        let mut from: Vec<_> = self.addresses.load().iter().filter(fits).copied().map(Some).collect();
        if from.is_empty() {
            from.push(None);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % from.len();
        from.rotate_left(turn);
        let mut held = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let way = |from| {
            let new = || {
                let (used, held, tried) = Default::default();
                Arc::new(Way { from, to, used, held, tried })
            };
            held.entry((from, to)).or_insert_with(new).clone()
        };
        let mut ways: Vec<_> = from.into_iter().map(way).collect();
        ways.sort_by_key(|way| way.used.load(Ordering::Relaxed));
        ways
    }

    async fn connect_by(&self, shard: &Shard, way: &Arc<Way>, kind: Kind) -> Result<Socket, Tried> {
        let range = **self.ports.load();
        let ports = u64::from(range.count());
        let claim = Claim::new(way, kind, ports).ok_or(Tried::NoShare)?;
        let used = way.used.load(Ordering::Relaxed);
        let slice = range.slice(used, way.tried.fetch_add(1, Ordering::Relaxed));
        let mut connected = dial(shard, way, slice).await;
        if slice.is_some() && matches!(connected, Err(Tried::NoPort)) {
            connected = dial(shard, way, None).await;
        }
        let socket = connected?;
        // The share of held requests is near before all of them are.
        if used as u64 * 100 >= share_of_held(ports) * limits::HEADROOM_NEAR {
            way.readings(ports).for_each(|reading| self.headroom.look(&reading));
        }
        socket.keep(Box::new(claim));
        Ok(socket)
    }
}

/// Why a connection did not come about on one way.
enum Tried {
    /// Every port is in use.
    NoPort,
    /// Those that held requests may use are.
    NoShare,
    /// The source address cannot be had.
    NoSource(io::Error),
    /// Another would fare no better.
    Failed(io::Error),
}

async fn dial(shard: &Shard, way: &Way, slice: Option<PortRange>) -> Result<Socket, Tried> {
    let no_source = |error: io::Error| {
        let from = way.from.as_ref().map_or(&"chosen by the kernel" as &dyn Display, |from| from);
        Tried::NoSource(io::Error::new(error.kind(), format!("source address {from}: {error}")))
    };
    let fd = listen::dialler_from(way.from, way.to, slice).map_err(no_source)?;
    let socket = Socket::adopt(&shard.ring, fd).map_err(Tried::Failed)?;
    match socket.connect(&way.to).await {
        Ok(()) => Ok(socket),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Tried::NoPort,
            _ => Tried::Failed(error),
        }),
    }
}
