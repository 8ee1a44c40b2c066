//! A site's revocation lists and its block list: offered by connection points, read on a thread of their
//! own, kept on disk, and put in force on every shard.
//!
//! Which of two lists is the newer one, is judged by `auth`. What is wrong with a list costs nothing: the
//! ones before stay in force.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::GatewayMessage;
use super::gate::Gate;
use crate::auth::{BlockList, ListStanding, RevocationList, Trust};
use crate::channel::{List, ListKind, ListTag, Verdict};
use crate::limits;

/// A list that was read, or what is wrong with it.
pub type Read = Result<ReadList, String>;

/// See [`Read`].
pub enum ReadList {
    /// Its authority has signed it.
    Revocation(Arc<RevocationList>),
    /// Every line is understood.
    Blocked(BlockList),
}

/// The block list in force of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockMark {
    serial: u64,
    sha256: [u8; 32],
}

/// What a site judges by, and which block list that has.
pub type Judging = (Trust, Option<BlockMark>);

/// Whether a list that is offered is wanted, and why not. The text is for the connection point's log.
pub fn judge_offer(trust: &Trust, block: Option<BlockMark>, tag: &ListTag) -> (Verdict, String) {
    match (tag.kind, block) {
        (ListKind::Revocation, _) => {
            let is_held = trust.revocation().lists().iter().any(|list| list.sha256 == tag.sha256);
            (if is_held { Verdict::InForce } else { Verdict::Wanted }, String::new())
        }
        // Taken, it would be the last one for ever.
        (ListKind::Blocked, _) if tag.serial > latest_serial() => {
            (Verdict::Refused, "the block list is of a time to come".to_owned())
        }
        (ListKind::Blocked, Some(held)) if held.sha256 == tag.sha256 => (Verdict::InForce, String::new()),
        (ListKind::Blocked, Some(held)) if held.serial >= tag.serial => {
            (Verdict::Outdated, "the gateway has a block list of a later time".to_owned())
        }
        (ListKind::Blocked, _) => (Verdict::Wanted, String::new()),
    }
}

/// The serial of a block list is when it was written, in milliseconds.
fn latest_serial() -> u64 {
    let now = rustls::pki_types::UnixTime::now().as_secs();
    now.saturating_add(limits::CLOCK_SKEW.as_secs()).saturating_mul(1000)
}

/// Reads a list; some of 8 MiB take a tenth of a second, so not on a shard.
pub fn read(list: &List, trust: &Trust) -> Read {
    if ring::digest::digest(&ring::digest::SHA256, &list.bytes).as_ref() != list.tag.sha256 {
        return Err("the hash is not that of the list".to_owned());
    }
    match list.tag.kind {
        ListKind::Revocation => {
            let now = rustls::pki_types::UnixTime::now().as_secs();
            let read = RevocationList::read(&list.bytes, trust, now).map_err(|fault| fault.to_string())?;
            Ok(ReadList::Revocation(Arc::new(read)))
        }
        ListKind::Blocked => {
            let read = BlockList::parse(&list.bytes).map_err(|fault| fault.to_string())?;
            Ok(ReadList::Blocked(read))
        }
    }
}

/// Lists that are being read.
static READING: AtomicUsize = AtomicUsize::new(0);

/// Reads it on a thread; shard 0 hears what came of it.
pub fn read_apart(gate: &Gate, from: usize, link: u64, site: usize, list: List, trust: Arc<Trust>) {
    let (mesh, tag) = (gate.port.mesh(), list.tag);
    let refuse = |text: String| {
        gate.port.send(from, GatewayMessage::ListVerdict { link, tag, verdict: Verdict::Refused, text });
    };
    if READING.fetch_add(1, Ordering::Relaxed) >= limits::LISTS_READ_AT_ONCE_MAX {
        READING.fetch_sub(1, Ordering::Relaxed);
        return refuse("the gateway reads other lists; it is to be offered again".to_owned());
    }
    let started = std::thread::Builder::new().name("read-list".into()).spawn(move || {
        let read = std::panic::catch_unwind(AssertUnwindSafe(|| read(&list, &trust)))
            .unwrap_or_else(|_| Err("it cannot be read: a mistake of the gateway".to_owned()));
        READING.fetch_sub(1, Ordering::Relaxed);
        let mut message = GatewayMessage::ListRead { from, link, site, list, read };
        while let Err(back) = mesh.send(0, message) {
            message = back;
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    if let Err(error) = started {
        READING.fetch_sub(1, Ordering::Relaxed);
        refuse(format!("the gateway has no thread to read it: {error}"));
    }
}

/// Trust with the list in it; `None` when it was there already. The mark is that of a block list.
///
/// # Errors
/// It does not take the place of what is held.
pub fn with_list(
    trust: &Trust,
    block: Option<BlockMark>,
    tag: &ListTag,
    read: ReadList,
) -> Result<Option<Judging>, (Verdict, String)> {
    let mut trust = trust.clone();
    match read {
        ReadList::Revocation(list) => match trust.take_list(list) {
            Ok(ListStanding::New) => Ok(Some((trust, block))),
            Ok(ListStanding::Same) => Ok(None),
            Err(fault @ crate::auth::ListFault::Older { .. }) => Err((Verdict::Outdated, fault.to_string())),
            Err(fault) => Err((Verdict::Refused, fault.to_string())),
        },
        ReadList::Blocked(list) => match judge_offer(&trust, block, tag) {
            (Verdict::Wanted, _) => {
                trust.block(list);
                Ok(Some((trust, Some(BlockMark { serial: tag.serial, sha256: tag.sha256 }))))
            }
            (Verdict::InForce, _) => Ok(None),
            judged => Err(judged),
        },
    }
}

// ── on disk ─────────────────────────────────────────────────────────────────────────────────────

/// Where a list of a site is kept: each kind, authority and scope has one file, so that a newer list
/// takes the place of the one before.
pub fn file(folder: &Path, code: &str, read: &ReadList) -> PathBuf {
    match read {
        ReadList::Revocation(list) => folder.join(format!("{code}.{}.{CRL}", list.place())),
        ReadList::Blocked(_) => folder.join(format!("{code}.{BLOCKED}")),
    }
}

/// What is written there. A block list has its serial before it.
pub fn kept(list: &List) -> Vec<u8> {
    match list.tag.kind {
        ListKind::Revocation => list.bytes.to_vec(),
        ListKind::Blocked => [&list.tag.serial.to_be_bytes()[..], &list.bytes].concat(),
    }
}

/// The lists of a site that were kept.
pub fn load(folder: &Path, code: &str) -> Vec<List> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let is_own = |name: &str, ending: &str| {
        name.strip_prefix(code).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(ending))
    };
    let list = |file: &PathBuf| {
        let name = file.file_name()?.to_str()?;
        let kind = match name {
            name if is_own(name, ".crl") => ListKind::Revocation,
            name if is_own(name, ".blocked") => ListKind::Blocked,
            _ => return None,
        };
        let bytes = std::fs::read(file).ok()?;
        let (serial, bytes) = match kind {
            ListKind::Revocation => (0, &bytes[..]),
            ListKind::Blocked => {
                let (serial, bytes) = bytes.split_first_chunk::<8>()?;
                (u64::from_be_bytes(*serial), bytes)
            }
        };
        let sha256 = ring::digest::digest(&ring::digest::SHA256, bytes);
        let sha256 = sha256.as_ref().try_into().expect("SHA-256 has 32 octets");
        Some(List { tag: ListTag { kind, serial, sha256, size: bytes.len() }, bytes: bytes.into() })
    };
    files.iter().filter_map(list).collect()
}

const CRL: &str = "crl";
const BLOCKED: &str = "blocked";
