//! A listener as one shard accepts on it: what is armed, and how it comes to rest when another process takes
//! its sockets or the gateway ends.
//!
//! Shards and processes arm accepts on the same sockets. Whoever takes its accepts back serves all that they
//! brought before that; who comes later stays in the kernel's queue for the others.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use super::gate::{Common, Gate};
use crate::shard::{Listener, Socket};

/// Whom a shard accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// Clients.
    pub clients: bool,
    /// Channels of connection points.
    pub channels: bool,
}

impl Accepts {
    /// As a gateway does that is alone.
    pub const ALL: Accepts = Accepts { clients: true, channels: true };
    /// Another process has the sockets.
    pub const NONE: Accepts = Accepts { clients: false, channels: false };
    /// Channels come to another process, so that it can take clients, too.
    pub const CLIENTS: Accepts = Accepts { clients: true, channels: false };
    /// Another process has the clients still.
    pub const CHANNELS: Accepts = Accepts { clients: false, channels: true };
}

/// How many acceptors of the process may still bring somebody.
#[derive(Default)]
pub struct Accepting {
    clients: AtomicUsize,
    channels: AtomicUsize,
}

impl Accepting {
    /// Nobody comes by these any more.
    pub fn is_at_rest(&self, whom: Whom) -> bool {
        self.of(whom).load(Ordering::Acquire) == 0
    }

    fn of(&self, whom: Whom) -> &AtomicUsize {
        match whom {
            Whom::Clients => &self.clients,
            Whom::Channels => &self.channels,
        }
    }
}

/// Whom an acceptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Clients.
    Clients,
    /// Connection points.
    Channels,
}

/// See the file's head.
pub struct Acceptor {
    gate: Rc<Gate>,
    /// What accepts are armed on.
    pub listener: Listener,
    at_work: AtWork,
    /// What was armed is being taken back.
    is_disarmed: bool,
}

impl Acceptor {
    /// Nothing is armed yet.
    pub fn new(gate: &Rc<Gate>, listener: Listener, whom: Whom) -> Acceptor {
        let at_work = AtWork { common: gate.common.clone(), whom, is_counted: false };
        Acceptor { gate: gate.clone(), listener, at_work, is_disarmed: false }
    }

    /// Whether accepts may be armed. As long as not, those that are armed are taken back.
    pub fn may_arm(&mut self) -> bool {
        let accepts = self.gate.accepts();
        let may = match self.at_work.whom {
            Whom::Clients => accepts.clients,
            Whom::Channels => accepts.channels,
        };
        if may {
            self.at_work.count(true);
        } else if !self.is_disarmed {
            self.listener.disarm();
        }
        self.is_disarmed = !may;
        if !may && self.listener.pending() == 0 {
            self.at_work.count(false);
        }
        may
    }

    /// The gateway ends, and nobody comes by this one any more.
    pub fn is_done(&self) -> bool {
        self.gate.is_draining() && !self.at_work.is_counted
    }

    /// Waits for the next connection. `None`: look again at what may be armed.
    pub async fn next(&self) -> Option<io::Result<(Socket, SocketAddr)>> {
        let mut waited = false;
        std::future::poll_fn(|context| {
            if let Poll::Ready(accepted) = self.listener.poll_accept(context) {
                return Poll::Ready(Some(accepted));
            }
            if std::mem::replace(&mut waited, true) {
                // A client left, handshakes went on, an accept was taken back, or others accept now.
                return Poll::Ready(None);
            }
            let mut acceptors = self.gate.acceptors.borrow_mut();
            if !acceptors.iter().any(|waker| waker.will_wake(context.waker())) {
                acceptors.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// Counts an acceptor as long as it may bring somebody.
struct AtWork {
    common: Arc<Common>,
    whom: Whom,
    is_counted: bool,
}

impl AtWork {
    fn count(&mut self, is_counted: bool) {
        if std::mem::replace(&mut self.is_counted, is_counted) == is_counted {
            return;
        }
        let counter = self.common.accepting.of(self.whom);
        if is_counted {
            counter.fetch_add(1, Ordering::AcqRel);
        } else {
            counter.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.count(false);
    }
}
