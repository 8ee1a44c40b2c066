//! What the issuer keeps up for as long as it runs: the list as it is in its file, the next one signed in time, and a
//! certificate of its own that is good.
//!
//! The list is looked at each second, on a thread that waits for nobody: whoever changes the folder may take his time.
//! What is wrong is told ([`Counts`]) and tried again; nothing of it ends the issuer, for the list that it has revokes
//! still, and whoever it can renew needs it.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use std::{fs, io, thread};

use rustls::pki_types::UnixTime;

use super::counts::{Counts, Trouble};
use crate::limits::INTERNAL_FILES_EVERY;
use crate::pki::{self, Pki, PkiError};
use crate::transport::Internal;

/// See the file's head.
#[derive(Clone)]
pub(super) struct Upkeep {
    internal: Weak<Internal>,
    folder: PathBuf,
    list: PathBuf,
    counts: Arc<Counts>,
}

impl Upkeep {
    pub(super) fn new(internal: &Arc<Internal>, pki: &Pki, folder: PathBuf, counts: &Arc<Counts>) -> Upkeep {
        let (internal, list) = (Arc::downgrade(internal), pki.internal_list());
        Upkeep { internal, folder, list, counts: counts.clone() }
    }

    /// Does everything once, and then again on threads, for as long as somebody needs it.
    pub(super) fn start(self) -> io::Result<()> {
        let mut seen = None;
        if let Some(internal) = self.internal.upgrade() {
            self.keep(&internal);
            self.look(&internal, &mut seen);
        }
        let keeper = self.clone();
        every("internal-keep", KEPT_EVERY, self.internal.clone(), move |internal| keeper.keep(internal))?;
        every("internal-list", INTERNAL_FILES_EVERY, self.internal.clone(), move |internal| {
            self.look(internal, &mut seen);
        })
    }

    /// Reads the list, if it is another than was `seen`.
    pub(super) fn look(&self, internal: &Internal, seen: &mut Option<Mark>) {
        let mark = fs::metadata(&self.list).and_then(|facts| Ok((facts.modified()?, facts.len()))).ok();
        if mark.is_some() && mark == *seen {
            return;
        }
        let read = self.read(internal);
        if read.is_ok() {
            *seen = mark;
        }
        let told = read.err().map(|error| format!("the list in force stays: {error}"));
        self.counts.tell(Trouble::Reading, told);
    }

    fn read(&self, internal: &Internal) -> Result<(), PkiError> {
        let path = || self.list.clone();
        let bytes = fs::read(&self.list).map_err(|source| PkiError::File { path: path(), source })?;
        let taken = internal.take_lists(&bytes);
        let is_new = taken.map_err(|fault| PkiError::Unusable { path: path(), reason: fault.to_string() })?;
        if is_new {
            let entries = internal.listed().lists.iter().map(|list| list.len()).sum::<usize>();
            tracing::info!(list = %self.list.display(), entries, "list in force");
        }
        Ok(())
    }

    /// Signs the next list and makes the next certificate, where it is time.
    pub(super) fn keep(&self, internal: &Internal) {
        let text = |error: PkiError| error.to_string();
        let pki = Pki::existing(&self.folder).map_err(text);
        let pki = pki.as_ref().map_err(String::clone);
        let signed = pki.clone().and_then(|pki| pki.keep_internal_list().map_err(text));
        let told = signed.err().map(|error| format!("the list is not signed anew: {error}"));
        self.counts.tell(Trouble::Signing, told);
        let shown = pki.and_then(|pki| show_next(internal, pki));
        let told = shown.err().map(|error| format!("the issuer's own certificate is not renewed: {error}"));
        self.counts.tell(Trouble::Certificate, told);
    }
}

fn show_next(internal: &Internal, pki: &Pki) -> Result<(), String> {
    let shown = internal.own();
    let due = shown.cert.first().and_then(|leaf| pki::renewal_due(leaf, 0)).unwrap_or(0);
    if due > UnixTime::now().as_secs() {
        return Ok(());
    }
    let (chain, key) = pki.issuer_identity().map_err(|error| error.to_string())?;
    let provider = rustls::crypto::ring::default_provider();
    let own = rustls::sign::CertifiedKey::from_der(chain, key, &provider);
    internal.show(Arc::new(own.map_err(|error| error.to_string())?));
    Ok(())
}

/// Does `work` now and then, for as long as there is what it is for.
fn every(
    name: &str,
    pause: Duration,
    internal: Weak<Internal>,
    mut work: impl FnMut(&Internal) + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        loop {
            thread::sleep(pause);
            let Some(internal) = internal.upgrade() else { return };
            work(&internal);
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// By which one tells that a file has changed.
pub(super) type Mark = (SystemTime, u64);

/// How often list and certificate are looked at for their age.
const KEPT_EVERY: Duration = Duration::from_secs(60);
