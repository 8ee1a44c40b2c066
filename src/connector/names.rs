//! Names to addresses, off the shard: the system's resolver blocks.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::shard::Shard;

/// An answer is used for this long; a server that moves is found again within it.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The addresses of one name, asked for at most once at a time.
pub struct Name {
    host: String,
    port: u16,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    known: Option<(Instant, Rc<[SocketAddr]>)>,
    is_asking: bool,
    waiting: Vec<Waker>,
}

impl Name {
    /// A name or an address without brackets.
    pub fn new(host: &str, port: u16) -> Name {
        Name { host: host.to_owned(), port, state: RefCell::default() }
    }

    /// Its addresses, never none.
    ///
    /// # Errors
    /// What the resolver says.
    pub async fn addresses(&self, shard: &Shard) -> io::Result<Rc<[SocketAddr]>> {
        loop {
            if let Some(known) = self.known(shard.now()) {
                return Ok(known);
            }
            if !self.state.borrow().is_asking {
                return self.ask(shard).await;
            }
            self.other_asks().await;
        }
    }

    fn known(&self, now: Instant) -> Option<Rc<[SocketAddr]>> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Some(Rc::new([SocketAddr::new(address, self.port)]));
        }
        let state = self.state.borrow();
        let (since, addresses) = state.known.as_ref()?;
        (now.saturating_duration_since(*since) < KEPT_FOR).then(|| addresses.clone())
    }

    /// Waits until whoever asks has an answer, or gave up.
    async fn other_asks(&self) {
        let mut is_first = true;
        std::future::poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if !state.is_asking || !std::mem::take(&mut is_first) {
                return Poll::Ready(());
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn ask(&self, shard: &Shard) -> io::Result<Rc<[SocketAddr]>> {
        let asking = Asking::new(self);
        let (host, port) = (self.host.clone(), self.port);
        let answer =
            shard.errand(move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)).await??;
        drop(asking);
        if answer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let addresses: Rc<[SocketAddr]> = answer.into();
        self.state.borrow_mut().known = Some((shard.now(), addresses.clone()));
        Ok(addresses)
    }
}

/// Says that a question is open, for as long as it lives; whoever asks may be dropped meanwhile.
struct Asking<'n>(&'n Name);

impl<'n> Asking<'n> {
    fn new(name: &'n Name) -> Asking<'n> {
        name.state.borrow_mut().is_asking = true;
        Asking(name)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.is_asking = false;
        state.waiting.drain(..).for_each(Waker::wake);
    }
}
