//! How a connection point takes another process's place, and how it gives its own away: the connection point's
//! part of `upgrade/`.
//!
//! It has no clients: the new one has channels to every instance beside those of the old one, and their settings
//! in force there, before the old one leaves as it does on a signal. Only the admin listeners are handed over.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use super::News;
use super::board::Board;
use crate::admin::{Report, Shutter};
use crate::handover::{Offer, Role};
use crate::limits;
use crate::transport::StartError;
use crate::upgrade::{self, Holding, Outside, Predecessor, Standing, TakeError, Taking, systemd};

/// See the file's head.
pub struct Succession {
    board: Arc<Board>,
    holdings: Vec<Holding>,
    tell: mpsc::Sender<News>,
}

impl Succession {
    /// Of a connection point that is asked at `outside`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        board: &Arc<Board>,
        outside: &Outside,
        tell: mpsc::Sender<News>,
    ) -> Result<Succession, StartError> {
        let holdings = outside.doors.holdings().map_err(|error| StartError(format!("listener: {error}")))?;
        Ok(Succession { board: board.clone(), holdings, tell })
    }

    /// Is asked how it is, and for its place.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn stand(self, outside: Outside) -> Result<Standing, StartError> {
        let report = self.board.clone();
        let standing = outside.stand(Role::Connector, report, |shutter| Old { connector: self, shutter });
        standing.map_err(|error| StartError(format!("admin: {error}")))
    }

    /// Takes the place of the process that `taking` talks to.
    ///
    /// # Errors
    /// It is not taken.
    pub fn follow(self, mut taking: Taking, mut outside: Outside) -> Result<Standing, StartError> {
        let broken =
            |error: TakeError| StartError(format!("the other process's place is not taken: {error}"));
        taking.started().map_err(broken)?;
        let is_ready = upgrade::eventually(limits::HANDOVER_CHANNELS_WITHIN, || self.board.is_ready());
        if !is_ready && taking.offer.is_ready {
            let secs = limits::HANDOVER_CHANNELS_WITHIN.as_secs();
            return Err(StartError(format!("not ready within {secs} s: {}", self.board.what_is_wrong())));
        }
        outside.prepare().map_err(|wrong| StartError(wrong.to_string()))?;
        taking.ready().map_err(broken)?;
        let mut standing = self.stand(outside)?;
        taking.taken().map_err(broken)?;
        standing.take_places();
        // The process before has said the first, unless it died.
        systemd::notify(&format!("MAINPID={}\nREADY=1", std::process::id()));
        tracing::info!("this process has taken the place of the one before");
        Ok(standing)
    }
}

/// A connection point whose place may be taken.
struct Old {
    connector: Succession,
    shutter: Shutter,
}

impl Predecessor for Old {
    fn offer(&self) -> Result<(Offer, Vec<OwnedFd>), String> {
        if self.connector.board.drains() {
            return Err("it is stopping".into());
        }
        let (sockets, fds) = upgrade::copies(&self.connector.holdings)?;
        Ok((Offer { is_ready: self.connector.board.is_ready(), points: 0, sockets }, fds))
    }

    fn make_way(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn let_go(&self) -> std::io::Result<()> {
        self.shutter.close();
        Ok(())
    }

    fn go_on(&self) {
        self.shutter.open();
    }

    fn leave(&self) {
        // Should the other one be lost now, a fresh start is to have their addresses.
        self.shutter.give_back();
        let _ = self.connector.tell.send(News::Succeeded);
    }
}
