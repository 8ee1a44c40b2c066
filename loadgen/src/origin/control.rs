//! The origin's control listener: a push to all that are held, and how many are.
//!
//! `POST /push?number=N&share=S&rate=R` answers when every shard has answered what it held; `GET /held` says how many requests
//! are held now, and the number of the last push; `GET /seen` how many came more than once, and with `id=ID,ID…` which of those came at all. One small request per connection, plain HTTP, on a thread of its own: nothing here is measured.

use super::exchange::Common;
use crate::content;
use crate::notification::{self, NUMBER_MAX, Push, SHARE_ALL};
use crate::wire;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// A control client that says nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request to the control listener.
const REQUEST_SIZE_MAX: usize = 4 * 1024;

/// A push as one shard does it.
pub struct Order {
    /// What is pushed.
    pub push: Push,
    /// Answers per second of this shard; as fast as it can when there is none.
    pub rate: Option<f64>,
    /// Where it says how many it answered.
    pub done: Sender<u64>,
}

/// One shard's letterbox, with a bell that wakes its ring.
pub struct Letterbox {
    orders: Sender<Order>,
    bell: Arc<OwnedFd>,
}

/// The shard's end of it.
pub struct Letters {
    /// Orders that came.
    pub orders: Receiver<Order>,
    bell: Arc<OwnedFd>,
}

/// Both ends of a shard's letterbox.
pub fn letterbox() -> io::Result<(Letterbox, Letters)> {
    // SAFETY: a call with two numbers; the descriptor is nobody else's when there is one.
    let bell = unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
            descriptor if descriptor >= 0 => OwnedFd::from_raw_fd(descriptor),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    let ((sender, orders), bell) = (channel(), Arc::new(bell));
    Ok((Letterbox { orders: sender, bell: Arc::clone(&bell) }, Letters { orders, bell }))
}

impl Letterbox {
    /// Puts an order in and rings. Whether somebody is there.
    fn put(&self, order: Order) -> bool {
        let one = 1_u64.to_ne_bytes();
        let is_there = self.orders.send(order).is_ok();
        // SAFETY: eight bytes that live through the call. A bell that rings already says the same.
        unsafe { libc::write(self.bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        is_there
    }
}

impl Letters {
    /// What becomes readable when the bell rings.
    pub fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Makes the bell silent again.
    pub fn hush(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: eight bytes that live through the call; that nothing rings is no error to us.
        unsafe { libc::read(self.bell.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Answers control requests until the process ends.
pub fn serve(listener: &TcpListener, common: &Common, shards: &[Letterbox]) {
    for stream in listener.incoming() {
        match stream {
            // A control client that went away has nothing to be told.
            Ok(stream) => drop(answer(stream, common, shards)),
            // No files or memory are left: pause, so that failing does not spin.
            Err(_) => std::thread::sleep(PATIENCE / 100),
        }
    }
}

fn answer(mut stream: TcpStream, common: &Common, shards: &[Letterbox]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 1024]);
    let (status, text) = loop {
        match wire::parse_request(&bytes) {
            Ok(Some(head)) => break decide(head.method, head.path, head.query, common, shards),
            Ok(None) if bytes.len() < REQUEST_SIZE_MAX => {}
            Ok(None) | Err(_) => break ("400 Bad Request", "no request\n".into()),
        }
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            size => bytes.extend_from_slice(&piece[..size]),
        }
    };
    let size = text.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all((head + &text).as_bytes())
}

fn decide(
    method: &[u8],
    path: &[u8],
    query: &[u8],
    common: &Common,
    shards: &[Letterbox],
) -> (&'static str, String) {
    match (method, path) {
        (b"GET", b"/held") => ("200 OK", told(common)),
        (b"GET", b"/seen") => match &common.seen {
            Some(seen) => match content::query_value(query, b"id") {
                Some(ids) => ("200 OK", seen.which(ids)),
                None => ("200 OK", seen.told()),
            },
            None => ("404 Not Found", "nothing is kept without --seen\n".into()),
        },
        (b"POST", b"/push") => match read_push(query, common) {
            Ok((push, rate)) => ("200 OK", do_push(push, rate, common, shards)),
            Err(text) => ("400 Bad Request", format!("{text}\n")),
        },
        (b"GET" | b"POST", _) => ("404 Not Found", WHAT.into()),
        _ => ("405 Method Not Allowed", WHAT.into()),
    }
}

const WHAT: &str = "there are GET /held, GET /seen and POST /push\n";

fn told(common: &Common) -> String {
    let (held, push) = (common.held.load(Ordering::Relaxed), common.push().number);
    format!("{{\"held\":{held},\"push\":{push}}}\n")
}

/// The push a query asks for, and its answers per second.
fn read_push(query: &[u8], common: &Common) -> Result<(Push, Option<f64>), &'static str> {
    let last = common.push().number;
    let number = match content::query_value(query, b"number") {
        None => (last + 1).min(NUMBER_MAX),
        Some(text) => notification::push_number(text).ok_or("number is none from 1 on")?,
    };
    if number <= last {
        return Err("number is not above that of the last push");
    }
    let share = match content::query_value(query, b"share") {
        None => SHARE_ALL,
        Some(text) => notification::share(text).ok_or("share is not above 0 and at most 1")?,
    };
    let rate = match content::query_value(query, b"rate") {
        None => None,
        Some(text) => {
            let rate = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
            Some(rate.filter(|rate| rate.is_finite() && *rate > 0.0).ok_or("rate is no number above 0")?)
        }
    };
    Ok((Push { number, share }, rate))
}

fn do_push(push: Push, rate: Option<f64>, common: &Common, shards: &[Letterbox]) -> String {
    let began = Instant::now();
    // From here on, who asks and has not seen it is answered at once: nobody falls between.
    common.push.store(push.pack(), Ordering::Release);
    let (done, counts) = channel();
    let rate = rate.map(|rate| rate / shards.len() as f64);
    for shard in shards {
        shard.put(Order { push, rate, done: done.clone() });
    }
    drop(done);
    let answered: u64 = counts.iter().sum();
    format!(
        "{{\"push\":{},\"answered\":{answered},\"micros\":{}}}\n",
        push.number,
        began.elapsed().as_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_has_a_number_above_the_last_one() {
        let common = Common::default();
        assert_eq!(read_push(b"", &common), Ok((Push { number: 1, share: SHARE_ALL }, None)));
        common.push.store(Push { number: 4, share: SHARE_ALL }.pack(), Ordering::Release);
        assert_eq!(
            read_push(b"number=6&share=0.5&rate=100", &common),
            Ok((Push { number: 6, share: 500_000 }, Some(100.0)))
        );
        for query in ["number=4", "number=x", "share=0", "share=2", "rate=0", "rate=inf", "rate="] {
            assert!(read_push(query.as_bytes(), &common).is_err(), "{query}");
        }
    }

    #[test]
    fn a_bell_rings_until_it_is_hushed() {
        let (letterbox, letters) = letterbox().expect("an eventfd");
        let rings = || {
            let mut watched = libc::pollfd { fd: letters.bell(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one struct that lives through the call.
            unsafe { libc::poll(&raw mut watched, 1, 0) == 1 }
        };
        assert!(!rings());
        let (done, _counts) = channel();
        assert!(letterbox.put(Order { push: Push::default(), rate: None, done }));
        assert!(rings() && letters.orders.try_recv().is_ok());
        letters.hush();
        assert!(!rings());
    }
}
