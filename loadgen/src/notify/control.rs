//! Talk with the control listener of `loadgen origin`: one small request per connection.
//!
//! The counterpart is `origin/control.rs`.

use crate::notification::{Push, SHARE_ALL};
use crate::wire;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connect, or an answer that waits for nothing, takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an origin holds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Held {
    /// Requests held now.
    pub held: u64,
    /// Number of the last push.
    pub push: u64,
}

#[derive(Deserialize)]
struct Pushed {
    answered: u64,
}

/// What `origin` holds.
pub fn held(origin: SocketAddr) -> io::Result<Held> {
    serde_json::from_str(&ask(origin, "GET /held", PATIENCE)?).map_err(io::Error::from)
}

/// Has `origin` push; within `patience` it answered so many requests.
pub fn push(origin: SocketAddr, push: Push, rate: Option<f64>, patience: Duration) -> io::Result<u64> {
    let Push { number, share } = push;
    let share = f64::from(share) / f64::from(SHARE_ALL);
    let rate = rate.map(|rate| format!("&rate={rate}")).unwrap_or_default();
    let text = ask(origin, &format!("POST /push?number={number}&share={share}{rate}"), patience)?;
    serde_json::from_str(&text).map(|Pushed { answered }| answered).map_err(io::Error::from)
}

fn ask(origin: SocketAddr, line: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&origin, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: {origin}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let head = wire::parse_response(&bytes, false).map_err(io::Error::other)?;
    let head = head.ok_or(io::ErrorKind::UnexpectedEof)?;
    let text = String::from_utf8_lossy(&bytes[head.size..]).into_owned();
    if head.status == 200 { Ok(text) } else { Err(io::Error::other(text.trim().to_owned())) }
}
