//! How a gateway goes on with other settings of its own: the gateway's part of `reload`. What connection points publish
//! comes over channels (`control.rs`), and the files of server certificates are looked after by themselves, too
//! (`certificates.rs`).

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::UnixTime;

use super::gate::Common;
use super::local::Local;
use super::{GatewayMessage, certificates};
use crate::admin;
use crate::reload::{Outcome, Subject};
use crate::renewal::Place;
use crate::review::{Document, FileRead, GatewayReview, GatewayWorks, INTERNAL_FILES, INTERNAL_LIST};
use crate::settings::{Change, SettingsErrors};
use crate::shard::Mesh;
use crate::transport::StartError;

/// See the file's head.
pub struct Reloader {
    /// Its settings file, as it was read last.
    pub document: Document,
    /// What the shards share.
    pub common: Arc<Common>,
    /// The shards.
    pub mesh: Arc<Mesh<GatewayMessage>>,
    /// Files that the last look named.
    pub files: Vec<PathBuf>,
}

impl Subject for Reloader {
    fn reload(&mut self, is_asked: bool) -> Result<Outcome, SettingsErrors> {
        self.judge(is_asked)
    }

    fn files(&self) -> Vec<PathBuf> {
        let local = self.common.local.load();
        let mut all: Vec<_> = named(&local.reads).collect();
        all.extend(self.files.iter().cloned());
        all
    }

    fn is_there(&self) -> bool {
        !self.common.is_draining()
    }
}

/// Files that nobody else looks after.
fn named(reads: &[FileRead]) -> impl Iterator<Item = PathBuf> {
    reads.iter().filter(|read| !read.key.starts_with(certificates::KEY)).map(|read| read.path.clone())
}

impl Reloader {
    fn judge(&mut self, is_asked: bool) -> Result<Outcome, SettingsErrors> {
        let read = || Document::open(&self.document.path).map_err(|error| SettingsErrors(vec![error]));
        let document = if is_asked { read()? } else { self.document.clone() };
        let review = GatewayReview::of(document.clone(), UnixTime::now());
        let reads = review.reads();
        self.files = named(&reads).collect();
        // Who is revoked is cut, and a certificate that was renewed is shown, whatever else is wrong.
        self.common.keeper.take_file(review.list.as_ref());
        self.common.keeper.take_certificate(review.identity());
        let (local, shown) = (self.common.local.load_full(), &self.common.certificates);
        let others = |reads: &[FileRead]| -> Vec<FileRead> {
            reads.iter().filter(|read| !read.key.starts_with(certificates::KEY)).cloned().collect()
        };
        let is_same = others(&reads) == others(&local.reads);
        if is_same && !is_asked {
            return Ok(Outcome::Unchanged);
        }
        let warnings = review.findings.warnings.clone();
        let works = review.into_works()?;
        if is_same && shown.shows(&works.server_keys) {
            return Ok(Outcome::Unchanged);
        }
        let mut change = local.settings.change_to(&works.settings);
        for key in ["admin.", "internal.ca"] {
            let name = if key == "admin." { "admin.certificate" } else { key };
            if FileRead::differ(&works.reads, &local.reads, key) && !change.anew.contains(&name) {
                change.anew.push(name);
            }
        }
        if !change.anew.is_empty() {
            return Ok(Outcome::Anew(change.anew.iter().map(|key| (*key).to_owned()).collect()));
        }
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        match self.go_on_with(works, &local, change) {
            Ok(what) => {
                self.common.document.store(Arc::new(document.clone()));
                self.document = document;
                Ok(Outcome::Applied(what))
            }
            Err(StartError(error)) => {
                let error = document.source().error("", error, "settings that can be put in force");
                Err(SettingsErrors(vec![error]))
            }
        }
    }

    /// Puts in force what was judged; what changed.
    fn go_on_with(&self, works: GatewayWorks, before: &Local, change: Change) -> Result<String, StartError> {
        let shown = &self.common.certificates;
        let (keys, ends) = (works.server_keys.clone(), works.ends.clone());
        let mut what = change.within;
        let mut add = |key, is_other| {
            if is_other && !what.contains(&key) {
                what.push(key);
            }
        };
        add(certificates::KEY, !shown.shows(&keys));
        let is_other = |key: &&str| FileRead::differ(&works.reads, &before.reads, key);
        // A certificate and its key are one.
        add("internal.certificate", INTERNAL_FILES.iter().any(is_other));
        for key in [INTERNAL_LIST, "gateway.ticket_keys"] {
            add(key, is_other(&key));
        }
        let (internal, list) = (works.internal.clone(), works.list.clone());
        let local = Arc::new(Local::new(works, shown, Some(before))?);
        let place = Place::new(&self.common.folder, &local.settings.internal, None);
        self.common.keeper.go_on_with(&internal, place, list.as_ref());
        shown.replace(keys, ends);
        if what.contains(&"log.level") {
            admin::set_log_level(local.settings.log.level);
        }
        self.common.local.store(local.clone());
        self.tell(&local);
        Ok(format!("other settings are in force ({})", what.join(", ")))
    }

    /// Every shard works by it from now on. A full inbox is emptied within a turn or two.
    fn tell(&self, local: &Arc<Local>) {
        for shard in 0..self.mesh.shards() {
            while !self.common.is_draining()
                && self.mesh.send(shard, GatewayMessage::Local(local.clone())).is_err()
            {
                thread::sleep(TELL_AGAIN_AFTER);
            }
        }
    }
}

const TELL_AGAIN_AFTER: Duration = Duration::from_millis(10);
