//! How a gateway takes another process's place, and how it gives its own away: the gateway's part of
//! `upgrade/`.
//!
//! The new one takes channels first, by the listeners that both have: the old one asks its connection points to
//! dial once more, and goes on with the channels it has. Clients come to the new one when it has as many
//! connection points as the old, but for those that come in where clients do: they are asked once more when clients
//! come to the new one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::acceptor::{Accepts, Whom};
use super::gate::Common;
use super::{GatewayMessage, News, report};
use crate::admin::{Report, Shutter};
use crate::handover::{Offer, Role};
use crate::limits;
use crate::shard::Mesh;
use crate::transport::StartError;
use crate::upgrade::{self, Holding, Outside, Predecessor, Standing, TakeError, Taking, systemd};

/// Listening sockets for another process; none when this one ends.
pub type Holdings = Arc<Mutex<Vec<Holding>>>;

/// See the file's head.
pub struct Succession {
    common: Arc<Common>,
    mesh: Arc<Mesh<GatewayMessage>>,
    report: Arc<report::Gateway>,
    holdings: Holdings,
    tell: mpsc::Sender<News>,
}

impl Succession {
    /// Of a gateway whose shards run.
    pub fn new(
        common: &Arc<Common>,
        mesh: &Arc<Mesh<GatewayMessage>>,
        report: &Arc<report::Gateway>,
        holdings: &Holdings,
        tell: mpsc::Sender<News>,
    ) -> Succession {
        let (common, mesh, report) = (common.clone(), mesh.clone(), report.clone());
        Succession { common, mesh, report, holdings: holdings.clone(), tell }
    }

    /// Is asked how it is, and for its place.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn stand(self, outside: Outside) -> Result<Standing, StartError> {
        let report = self.report.clone();
        let predecessor = |shutter| Old { gateway: self, shutter };
        let standing = outside.stand(Role::Gateway, report, predecessor);
        standing.map_err(|error| StartError(format!("admin: {error}")))
    }

    /// Takes the place of the process that `taking` talks to, and tells what became of it.
    pub fn take_over(self, taking: Taking, outside: Outside) {
        let tell = self.tell.clone();
        // Who is not there any more has ended the process.
        let _ = tell.send(News::TookOver(self.follow(taking, outside).map(Box::new)));
    }

    fn follow(self, mut taking: Taking, mut outside: Outside) -> Result<Standing, StartError> {
        let broken =
            |error: TakeError| StartError(format!("the other process's place is not taken: {error}"));
        taking.started().map_err(broken)?;
        self.await_channels(&taking.offer)?;
        outside.prepare().map_err(|wrong| StartError(wrong.to_string()))?;
        taking.ready().map_err(broken)?;
        let mesh = self.mesh.clone();
        let mut standing = self.stand(outside)?;
        taking.taken().map_err(broken)?;
        tell_all(&mesh, || GatewayMessage::Accept(Accepts::ALL));
        standing.take_places();
        // The process before has said the first, unless it died.
        systemd::notify(&format!("MAINPID={}\nREADY=1", std::process::id()));
        tracing::info!("this process has taken the place of the one before");
        Ok(standing)
    }

    /// Waits until as many connection points are here as the other process has and have said what this one judges by,
    /// and no further channel comes.
    fn await_channels(&self, offer: &Offer) -> Result<(), StartError> {
        let (mut links, mut since) = (0, Instant::now());
        let are_here = upgrade::eventually(limits::HANDOVER_CHANNELS_WITHIN, || {
            let (points, now) = (self.report.heard(), self.links());
            if now != links {
                (links, since) = (now, Instant::now());
            }
            points >= usize::from(offer.points) && since.elapsed() >= limits::HANDOVER_SETTLED_AFTER
        });
        let points = self.report.heard();
        if !are_here && points == 0 {
            let (wanted, secs) = (offer.points, limits::HANDOVER_CHANNELS_WITHIN.as_secs());
            let text = format!(
                "none of {wanted} connection points came to this process and published within {secs} s"
            );
            return Err(StartError(text));
        }
        if !are_here {
            tracing::warn!(
                points,
                before = offer.points,
                "not every connection point has come to this process"
            );
        }
        Ok(())
    }

    fn links(&self) -> u64 {
        self.common.counters.iter().map(|counters| counters.links.load(Ordering::Relaxed)).sum()
    }
}

/// A gateway whose place may be taken.
struct Old {
    gateway: Succession,
    shutter: Shutter,
}

impl Old {
    fn accept(&self, accepts: Accepts) {
        tell_all(&self.gateway.mesh, || GatewayMessage::Accept(accepts));
    }

    fn await_rest(&self, whom: Whom) -> io::Result<()> {
        let accepting = &self.gateway.common.accepting;
        let is_at_rest = upgrade::eventually(limits::HANDOVER_STEP_WITHIN, || accepting.is_at_rest(whom));
        if is_at_rest { Ok(()) } else { Err(io::Error::other("its acceptors do not come to rest")) }
    }
}

impl Predecessor for Old {
    fn offer(&self) -> Result<(Offer, Vec<OwnedFd>), String> {
        if self.gateway.common.draining.load(Ordering::Relaxed) {
            return Err("it is stopping".into());
        }
        let holdings = self.gateway.holdings.lock().unwrap_or_else(PoisonError::into_inner);
        let (sockets, fds) = upgrade::copies(&holdings)?;
        let points = u16::try_from(self.gateway.report.attached_apart()).unwrap_or(u16::MAX);
        Ok((Offer { is_ready: self.gateway.report.is_ready(), points, sockets }, fds))
    }

    fn make_way(&self) -> io::Result<()> {
        self.gateway.common.written.pause();
        self.accept(Accepts::CLIENTS);
        self.await_rest(Whom::Channels)?;
        tell_all(&self.gateway.mesh, || GatewayMessage::MakeWay(Whom::Channels));
        Ok(())
    }

    fn let_go(&self) -> io::Result<()> {
        self.accept(Accepts::NONE);
        self.await_rest(Whom::Clients)?;
        // Channels that come in where clients do came here until now. Who was asked before is asked once more: what it
        // dialled may have come to nothing, and who has another channel already makes no more of them.
        tell_all(&self.gateway.mesh, || GatewayMessage::MakeWay(Whom::Clients));
        self.shutter.close();
        Ok(())
    }

    fn go_on(&self) {
        self.accept(Accepts::ALL);
        self.shutter.open();
        self.gateway.common.written.go_on();
    }

    fn leave(&self) {
        self.gateway.common.written.leave();
        // Should the other one be lost now, a fresh start is to have their addresses.
        self.shutter.give_back();
        let _ = self.gateway.tell.send(News::Succeeded);
    }
}

/// Tells every shard.
pub fn tell_all(mesh: &Mesh<GatewayMessage>, message: impl Fn() -> GatewayMessage) {
    for shard in 0..mesh.shards() {
        // A full inbox is emptied within a turn or two, unless its shard ended.
        let mut tries = 100;
        while mesh.send(shard, message()).is_err() && tries > 0 {
            tries -= 1;
            thread::sleep(Duration::from_millis(10));
        }
    }
}
