//! Probes: the first shard looks, now and then, whether each origin is there, so that one that is down is found
//! before requests find it, and one that is back gets requests again.
//!
//! What follows from it is `group.rs`'s business.

use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::FutureExt;

use super::Here;
use super::origin::{Kind, Origin, has_no_port, why_not_reached};
use super::wait::within;
use super::works::Works;
use crate::dispatch::OriginSign;
use crate::http::{FieldScratch, Parsed, parse_response};
use crate::limits::{PROBE_AGAIN_AFTER, PROBE_ANSWER_SIZE_MAX};
use crate::logs;
use crate::transport::Wire;

/// Begins to probe what is to be probed and was not by the works before.
pub fn begin(here: &Rc<Here>, works: &Works, before: Option<&Works>) {
    let is_new = |origin: &&Rc<Origin>| before.is_none_or(|before| before.servers.number(origin).is_none());
    let count = u32::try_from(works.servers.origins.len()).unwrap_or(u32::MAX).max(1);
    for (number, origin) in works.servers.origins.iter().enumerate() {
        if origin.plan().rules.is_probed && is_new(&origin) {
            // Not all at once.
            let pause = origin.plan().health.every * u32::try_from(number).unwrap_or_default() / count;
            here.shard.spawn("probe", watch(here.clone(), origin.clone(), pause));
        }
    }
}

/// Until other settings have none like it.
async fn watch(here: Rc<Here>, origin: Rc<Origin>, mut pause: Duration) {
    let every = origin.plan().health.every;
    loop {
        here.shard.sleep(pause).await;
        if here.draining.get() || here.works().servers.number(&origin).is_none() {
            return;
        }
        // A mistake of ours in one probe must not end them all: one that is down would stay so.
        if AssertUnwindSafe(look(&here, &origin)).catch_unwind().await.is_err() {
            here.shard.panics.set(here.shard.panics.get() + 1);
            let origin = &*origin.plan().authority;
            tracing::error!(origin, task = "probe", "a task panicked; this is a bug of cmg");
        }
        let works = here.works();
        let number = works.servers.number(&origin);
        pause = number.map_or(every, |number| works.servers.probe_after(number, every, PROBE_AGAIN_AFTER));
    }
}

/// Probes once, and tells what came of it.
async fn look(here: &Here, origin: &Origin) {
    match within(&here.shard, origin.plan().health.within, probe(origin)).await {
        Some(Found::There) => here.hear_origin(origin, OriginSign::ProbePassed, "probes pass"),
        Some(Found::Amiss(how)) => fail(here, origin, how),
        Some(Found::Unasked) => {}
        None => {
            let secs = origin.plan().health.within.as_secs();
            fail(here, origin, format!("did not answer within {secs} s"));
        }
    }
}

fn fail(here: &Here, origin: &Origin, how: String) {
    // TLS tells every name of the certificate that was shown.
    let cause = logs::bounded(format!("probed, it {how}"));
    here.hear_origin(origin, OriginSign::ProbeFailed, &cause);
}

/// What a probe came to.
enum Found {
    There,
    /// How it is not as it should be, as the end of a sentence that begins with it.
    Amiss(String),
    /// There was no port to ask from.
    Unasked,
}

async fn probe(origin: &Origin) -> Found {
    let mut wire = match origin.connect(Kind::Ordinary).await {
        Ok(wire) => wire,
        Err(error) if has_no_port(&error) => return Found::Unasked,
        Err(error) => return Found::Amiss(why_not_reached(&error)),
    };
    let Some(path) = &origin.plan().health.path else { return Found::There };
    match ask(&mut wire, &origin.plan().authority, path).await {
        Ok(Some(status)) if status < 500 => Found::There,
        Ok(Some(status)) => Found::Amiss(format!("answered with status {status}")),
        Ok(None) => Found::Amiss("answered what is not HTTP".to_owned()),
        Err(error) => Found::Amiss(format!("broke off: {error}")),
    }
}

/// Asks for `path`: the status of the final answer; `None` where it makes no sense.
async fn ask(wire: &mut Wire, authority: &str, path: &str) -> io::Result<Option<u16>> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: cmg (probe)\r\nConnection: close\r\n\r\n"
    );
    wire.write(request.as_bytes())?;
    wire.flush().await?;
    loop {
        match read(wire.received()) {
            Read::Interim(size) => wire.consume(size),
            Read::Final(status) => return Ok(Some(status)),
            Read::Wrong => return Ok(None),
            Read::Partial => {
                if !std::future::poll_fn(|context| wire.poll_fill(context)).await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

enum Read {
    Partial,
    /// An answer before the final one, of so many octets.
    Interim(usize),
    Final(u16),
    Wrong,
}

fn read(bytes: &[u8]) -> Read {
    let mut scratch = FieldScratch::new();
    match parse_response(bytes, false, &mut scratch) {
        Ok(Parsed::Complete { head, size }) if head.is_interim() => Read::Interim(size),
        Ok(Parsed::Complete { head, .. }) => Read::Final(head.status),
        Ok(Parsed::Partial) if bytes.len() < PROBE_ANSWER_SIZE_MAX => Read::Partial,
        Ok(Parsed::Partial) | Err(_) => Read::Wrong,
    }
}
