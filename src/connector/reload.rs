//! How a connection point goes on with other settings: the connection point's part of `reload`.
//!
//! Every shard maps by them before any gateway hears of them, so that no request comes for what a shard does not know
//! yet. Exchanges that have begun end as they began.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustls::pki_types::UnixTime;

use super::board::Board;
use super::plan::Plan;
use super::tokens::Shards;
use super::{Control, LOOK_EVERY, internal};
use crate::admin;
use crate::limits::RELOAD_TAKEN_WITHIN;
use crate::reload::{Outcome, Subject};
use crate::review::{
    ConnectorReview, ConnectorWorks, Document, FileRead, INTERNAL_FILES, INTERNAL_LIST, SiteReview,
};
use crate::settings::{Change, PublishedSettings, SettingsError, SettingsErrors, Standing};
use crate::shard::Mesh;
use crate::token_watch::{Known, State, Watch};
use crate::transport::StartError;
use crate::upgrade;

/// What shards are told of other settings.
pub struct Next {
    /// The settings, and what they name.
    pub plan: Arc<Plan>,
    /// Whose tokens are taken, if that is to be another.
    pub tokens: Option<Arc<State>>,
    /// Gateways are to hear of other settings.
    pub is_other_revision: bool,
    /// Shards that work by it.
    pub taken: AtomicUsize,
}

/// See the file's head.
pub struct Reloader {
    /// Its settings file, as it was read last.
    pub document: Document,
    /// What is in force.
    pub plan: Arc<Plan>,
    /// Where that is told.
    pub board: Arc<Board>,
    /// The shards.
    pub mesh: Arc<Mesh<Control>>,
    /// What was fetched for tokens.
    pub known: Known,
    /// As long as this lives, what changes of tokens is looked after.
    pub tokens: Arc<()>,
    /// Those that the last look named.
    pub files: Vec<PathBuf>,
}

impl Subject for Reloader {
    fn reload(&mut self, is_asked: bool) -> Result<Outcome, SettingsErrors> {
        self.judge(is_asked)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut all: Vec<_> = self.plan.reads.iter().map(|read| read.path.clone()).collect();
        all.extend(self.files.iter().cloned());
        all
    }

    fn is_there(&self) -> bool {
        !self.board.drains()
    }
}

impl Reloader {
    fn judge(&mut self, is_asked: bool) -> Result<Outcome, SettingsErrors> {
        let read = || Document::open(&self.document.path).map_err(|error| SettingsErrors(vec![error]));
        let document = if is_asked { read()? } else { self.document.clone() };
        let review = ConnectorReview::of(document.clone(), UnixTime::now());
        let reads = review.reads();
        self.files = reads.iter().map(|read| read.path.clone()).collect();
        // Who is revoked is cut, and a certificate that was renewed is shown, whatever else is wrong.
        self.board.keeper.take_file(review.list.as_ref());
        self.board.keeper.take_certificate(review.identity());
        if reads == self.plan.reads {
            if is_asked {
                self.tell_again();
            }
            return Ok(Outcome::Unchanged);
        }
        let warnings = review.findings.warnings.clone();
        review.findings.verdict()?;
        let serial = review.site.as_ref().and_then(|site| self.judge_serial(site));
        if let Some(Serial::Raise(error)) = serial {
            return Err(SettingsErrors(vec![error]));
        }
        let mut works = review.into_works()?;
        let mut change = self.plan.settings.change_to(&works.settings);
        let is_other = |key: &str| FileRead::differ(&works.reads, &self.plan.reads, key);
        let is_other_internal = INTERNAL_FILES.iter().any(|key| is_other(key));
        let is_other_list = is_other(INTERNAL_LIST);
        if is_other("admin.") && !change.anew.contains(&"admin.certificate") {
            change.anew.push("admin.certificate");
        }
        if works.site.settings.code != self.plan.site {
            change.anew.push("code of the site");
        }
        if !change.anew.is_empty() {
            return Ok(Outcome::Anew(change.anew.iter().map(|key| (*key).to_owned()).collect()));
        }
        if serial.is_some() {
            self.keep_published(&mut works);
        }
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let other_files = [("internal", is_other_internal), (INTERNAL_LIST, is_other_list)];
        match self.go_on_with(works, &change, other_files) {
            Ok(what) => {
                self.document = document;
                Ok(Outcome::Applied(what))
            }
            Err(StartError(error)) => {
                let error = document.source().error("", error, "settings that can be put in force");
                Err(SettingsErrors(vec![error]))
            }
        }
    }

    /// Gateways take other settings by a higher serial alone.
    fn judge_serial(&self, site: &SiteReview) -> Option<Serial> {
        let (held, offered) = (&self.plan.revision, site.revision()?);
        let what = match held.judge(offered) {
            Standing::Newer | Standing::Same | Standing::Foreign => return None,
            Standing::Older => "which is lower than",
            // A key that is taken out of the settings is believed until gateways hear of it.
            Standing::Diverged
                if site.tokens().files == self.plan.tokens.files && self.differs_in_keys_alone(site) =>
            {
                return Some(Serial::KeysAlone);
            }
            Standing::Diverged => "with other settings than those of the same serial",
        };
        let found = format!("{}, {what} in force", offered.serial);
        let expected = format!("{} or more: a change is told by a higher serial", held.serial + 1);
        Some(Serial::Raise(site.document.source().error("serial", found, expected)))
    }

    fn differs_in_keys_alone(&self, site: &SiteReview) -> bool {
        let read = |bytes: &[u8]| PublishedSettings::from_bytes(bytes).ok();
        let offered = site.published().and_then(read);
        let held = read(&self.plan.published);
        held.zip(offered).is_some_and(|(held, offered)| held.differs_in_token_keys_alone(&offered))
    }

    /// Keys that came to the files of token issuers are told of already.
    fn keep_published(&self, works: &mut ConnectorWorks) {
        works.site.published.clone_from(&self.plan.published);
        works.site.revision.clone_from(&self.plan.revision);
        works.site.tokens.issuers.clone_from(&self.plan.tokens.issuers);
    }

    /// Puts in force what was judged; what changed.
    fn go_on_with(
        &mut self,
        works: ConnectorWorks,
        change: &Change,
        other_files: [(&'static str, bool); 2],
    ) -> Result<String, StartError> {
        let internal = self.board.keeper.internal();
        let place = internal::place(&self.document.folder(), &works.settings, internal)?;
        let (identity, list) = (works.internal.clone(), works.list.clone());
        let plan = Arc::new(self.plan.next(works, &self.board.ledger)?);
        // What may fail comes before anything is changed.
        if !Arc::ptr_eq(&plan.lists, &self.plan.lists) {
            watch_lists(&plan, &self.mesh)?;
        }
        let tokens = if plan.tokens == self.plan.tokens { None } else { Some(self.watch_tokens(&plan)?) };
        let before = std::mem::replace(&mut self.plan, plan.clone());
        if !Arc::ptr_eq(&plan.lists, &before.lists) {
            before.lists.end();
        }
        if change.within.contains(&"log.level") {
            admin::set_log_level(plan.settings.log.level);
        }
        self.board.works_by(&plan);
        self.board.keeper.go_on_with(&identity, place, list.as_ref());
        let is_other_revision = plan.revision != before.revision;
        let next = Next { plan: plan.clone(), tokens, is_other_revision, taken: AtomicUsize::new(0) };
        self.tell(&Arc::new(next));
        let mut what = change.within.clone();
        for (key, is_other) in other_files {
            if is_other && !what.contains(&key) {
                what.push(key);
            }
        }
        let serial = plan.revision.serial;
        let what = if what.is_empty() { "the site's".to_owned() } else { what.join(", ") };
        Ok(format!("other settings are in force ({what}), serial {serial}"))
    }

    /// Looks after what changes of the plan's tokens, and no more after those before; gives what is there now.
    fn watch_tokens(&mut self, plan: &Plan) -> Result<Arc<State>, StartError> {
        let ((watch, state), wanted) = (Watch::new(&plan.tokens, &self.known), Arc::default());
        let shards = Shards { mesh: Arc::downgrade(&self.mesh), settings: Arc::downgrade(&wanted) };
        watch.start(shards).map_err(|error| StartError(format!("a thread for tokens: {error}")))?;
        self.tokens = wanted;
        Ok(state)
    }

    /// Publishes once more what is in force: a gateway that refused it may have other settings now, too.
    fn tell_again(&self) {
        let (plan, taken) = (self.plan.clone(), AtomicUsize::new(0));
        let next = Arc::new(Next { plan, tokens: None, is_other_revision: true, taken });
        for to in 0..self.mesh.shards() {
            // Who asked can ask again.
            let _ = self.mesh.send(to, Control::Publish(next.clone()));
        }
    }

    /// Has every shard work by it, and then tell gateways.
    fn tell(&self, next: &Arc<Next>) {
        let shards = self.mesh.shards();
        let send = |control: fn(Arc<Next>) -> Control| {
            for to in 0..shards {
                // A full inbox is emptied within a turn or two.
                while !self.board.drains() && self.mesh.send(to, control(next.clone())).is_err() {
                    thread::sleep(LOOK_EVERY);
                }
            }
        };
        send(Control::Plan);
        let have_all = || next.taken.load(Ordering::Acquire) == shards || self.board.drains();
        if !upgrade::eventually(RELOAD_TAKEN_WITHIN, have_all) {
            tracing::warn!("not every shard works by the new settings yet");
        }
        send(Control::Publish);
    }
}

enum Serial {
    /// It has to be raised.
    Raise(SettingsError),
    /// Nothing that needs a higher one has changed.
    KeysAlone,
}

/// Has shards told of what changes of a plan's lists.
pub fn watch_lists(plan: &Plan, mesh: &Arc<Mesh<Control>>) -> Result<(), StartError> {
    let told = mesh.clone();
    let heard = move || {
        // A full inbox is emptied in a moment; the list waits until then.
        while told.send(0, Control::Lists).is_err() {
            thread::sleep(LOOK_EVERY);
        }
    };
    plan.lists.watch(heard).map_err(|error| StartError(format!("a thread for lists: {error}")))
}
