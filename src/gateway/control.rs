//! Settings in force: what connection points publish is judged on shard 0, kept on disk, and put in
//! force on every shard.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::GatewayMessage;
use super::admission::EndpointBook;
use super::gate::{Gate, InForce, RoleSeries, SiteInForce};
use super::lists::{self, BlockMark};
use crate::auth::Trust;
use crate::auth::token::{TokenMaterial, TokenWords};
use crate::channel::{List, ListTag, Publication, Verdict};
use crate::mapping::{self, Family, PublishedTable};
use crate::metrics::{Ledger, Name};
use crate::settings::{GatewaySettings, PublishedSettings, Revision, Standing};

/// How a publication came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brought {
    /// By a connection point: roles that its site may not publish refuse it as a whole.
    Anew,
    /// It was in force before this process began. A role that its site may not publish any more is not served, as if
    /// that had changed while the process ran; everything else stays in force.
    Kept,
}

/// The publications in force, by site; shard 0 alone holds them.
pub struct Publications {
    settings: GatewaySettings,
    folder: PathBuf,
    held: Vec<Option<PublishedSettings>>,
    /// By site: which block list is in force.
    blocks: Vec<Option<BlockMark>>,
    /// What was to be written, and whether it may.
    pub written: Arc<Written>,
    /// By site: what its connection points said of tokens.
    tokens: Vec<TokenWords>,
    ledger: Arc<Ledger>,
    endpoints: EndpointBook,
    /// What every shard has.
    pub in_force: Arc<InForce>,
}

impl Publications {
    /// What was in force when the gateway last ran: a known URL then waits for its connection point
    /// instead of being unknown.
    pub fn load(settings: &GatewaySettings, folder: &Path, ledger: &Arc<Ledger>) -> Publications {
        let folder = folder.join(&settings.state_dir);
        let sites = settings.sites.len();
        let empty = InForce {
            epoch: 0,
            table: PublishedTable::default(),
            sites: vec![SiteInForce::default(); sites],
            series: Arc::default(),
            allowances: Arc::default(),
        };
        let held = vec![None; sites];
        let mut publications = Publications {
            settings: settings.clone(),
            folder,
            held,
            blocks: vec![None; sites],
            written: Arc::default(),
            tokens: vec![TokenWords::default(); sites],
            ledger: ledger.clone(),
            endpoints: EndpointBook::default(),
            in_force: Arc::new(empty),
        };
        for site in 0..sites {
            // Lists are believed by the trust that the settings bring.
            let Ok(bytes) = std::fs::read(publications.file(site)) else { continue };
            match publications.judge(site, &bytes, Brought::Kept) {
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(site = settings.sites[site].code, error, "kept settings cannot be used")
                }
            }
            publications.load_lists(site);
        }
        publications
    }

    fn file(&self, site: usize) -> PathBuf {
        self.folder.join(format!("{}.published.json", self.settings.sites[site].code))
    }

    /// Judges a publication of `site` and puts it in force. The text says what is wrong, or in the way.
    fn judge(&mut self, site: usize, bytes: &[u8], brought: Brought) -> Result<(Verdict, String), String> {
        let offered = PublishedSettings::from_bytes(bytes).map_err(|error| error.to_string())?;
        let revision = Revision::of(&offered, bytes);
        if offered.site != self.settings.sites[site].code {
            return Err(format!("settings of site {} from a connection point of another", offered.site));
        }
        if let Some(held) = &self.in_force.sites[site].revision {
            let (has, brought) = (held.serial, revision.serial);
            match held.judge(&revision) {
                Standing::Newer => {}
                Standing::Same => return Ok((Verdict::InForce, String::new())),
                Standing::Older => {
                    let text = format!(
                        "the gateway has serial {has}, {brought} is older; raise it in the site's file"
                    );
                    return Ok((Verdict::Outdated, text));
                }
                Standing::Diverged => {
                    let text = format!(
                        "the gateway has other settings of the same serial {has}; raise it in the site's file with each change"
                    );
                    return Ok((Verdict::Diverged, text));
                }
                Standing::Foreign => return Err("settings of another site".into()),
            }
        }
        let (mode, grace_secs) = (offered.revocation.mode, offered.revocation.grace_secs);
        let trust = Trust::new(&offered.trust.roots, &offered.trust.intermediates)
            .map_err(|fault| fault.to_string())?
            .with_rules(offered.trust.allowed.clone(), mode, grace_secs)
            .with_lists_of(&self.in_force.sites[site].trust);
        let (table, conflicts) = self.table_with(site, &offered);
        if brought == Brought::Kept {
            self.tell_not_served(&conflicts);
        }
        for conflict in conflicts.into_iter().filter(|_| brought == Brought::Anew) {
            match conflict {
                mapping::Conflict::NotAllowed { id, site: by } if by == site => {
                    return Err(format!("role {id} is not among those that this site may publish here"));
                }
                mapping::Conflict::Claimed { id, site: by, holder } if by == site => {
                    let holder = &self.settings.sites[holder].code;
                    return Err(format!("role {id} is published by site {holder} already"));
                }
                mapping::Conflict::NotAllowed { .. } | mapping::Conflict::Claimed { .. } => {}
            }
        }
        let mut sites = self.in_force.sites.clone();
        let issuers = Arc::new(self.tokens[site].issuers(&offered.token_issuers));
        sites[site] = SiteInForce { revision: Some(revision), trust: Arc::new(trust), issuers };
        let (epoch, series) = (self.in_force.epoch + 1, self.series_of(&table));
        let allowances = self.endpoints.of(&table);
        self.in_force = Arc::new(InForce { epoch, table, sites, series, allowances });
        self.held[site] = Some(offered);
        Ok((Verdict::InForce, String::new()))
    }

    fn table_with(
        &self,
        site: usize,
        offered: &PublishedSettings,
    ) -> (PublishedTable, Vec<mapping::Conflict>) {
        let published = self.held.iter().enumerate().filter_map(|(number, held)| {
            let settings = if number == site { Some(offered) } else { held.as_ref() };
            let allowed = &self.settings.sites[number].role_ids;
            settings.map(|settings| mapping::Publication { site: number, roles: &settings.roles, allowed })
        });
        // Of two sites that claim one role, the one that has it keeps it.
        let (others, own): (Vec<_>, Vec<_>) = published.partition(|publication| publication.site != site);
        self.in_force.table.next(others.into_iter().chain(own))
    }

    /// Other settings of the gateway's own: sites may publish other roles than before. What one may not any more is not
    /// served any more; what it published and may again is, unless another site has it now.
    pub fn go_on_with(&mut self, gate: &Gate, settings: &GatewaySettings) {
        if self.settings.sites == settings.sites {
            return;
        }
        self.settings.sites.clone_from(&settings.sites);
        let held = self.held.iter().enumerate();
        let published = held.filter_map(|(site, held)| {
            let allowed = &self.settings.sites[site].role_ids;
            held.as_ref().map(|held| mapping::Publication { site, roles: &held.roles, allowed })
        });
        let (table, conflicts) = self.in_force.table.next(published);
        self.tell_not_served(&conflicts);
        let (epoch, sites) = (self.in_force.epoch + 1, self.in_force.sites.clone());
        let (series, allowances) = (self.series_of(&table), self.endpoints.of(&table));
        self.in_force = Arc::new(InForce { epoch, table, sites, series, allowances });
        self.tell(gate);
    }

    fn tell_not_served(&self, conflicts: &[mapping::Conflict]) {
        let code = |site: usize| &self.settings.sites[site].code;
        for conflict in conflicts {
            let (role, site, why) = match conflict {
                mapping::Conflict::NotAllowed { id, site } => {
                    (id, site, "it may not publish that here".to_owned())
                }
                mapping::Conflict::Claimed { id, site, holder } => {
                    (id, site, format!("site {} has it", code(*holder)))
                }
            };
            tracing::warn!(site = code(*site), role, why, "a published role is not served");
        }
    }

    /// What is counted for the endpoints of `table`, in their order.
    fn series_of(&self, table: &PublishedTable) -> Arc<[RoleSeries]> {
        let name = |site: usize, role: u64, path: &str, family| {
            Name::new(&self.settings.sites[site].code, role, path, family)
        };
        // An endpoint is not asked by a family it is not open to; its other one stands in there.
        let names = table.roles().flat_map(|(role, site)| {
            role.endpoints.iter().flat_map(move |endpoint| {
                let shown = |family| if endpoint.families.contains(family) { family } else { other(family) };
                Family::ALL.map(|family| name(site, role.id, endpoint.path.as_str(), shown(family)))
            })
        });
        let mut found = self.ledger.find(names).into_iter();
        let mut next = || found.next().expect("as many as names");
        table
            .roles()
            .map(|(role, _)| role.endpoints.iter().map(|_| Family::ALL.map(|_| next())).collect())
            .collect()
    }

    /// Takes a publication; tells every shard when it changes anything.
    pub fn take(&mut self, gate: &Gate, site: usize, publication: &Publication) -> (Verdict, String) {
        let epoch = self.in_force.epoch;
        let digest = ring::digest::digest(&ring::digest::SHA256, &publication.bytes);
        if digest.as_ref() != publication.revision.sha256 {
            return (Verdict::Refused, "the hash is not that of the settings".into());
        }
        let code = self.settings.sites[site].code.clone();
        let (verdict, text) = match self.judge(site, &publication.bytes, Brought::Anew) {
            Ok(judged) => judged,
            Err(text) => {
                tracing::warn!(site = code, error = text, "published settings refused");
                return (Verdict::Refused, text);
            }
        };
        if self.in_force.epoch != epoch {
            tracing::info!(site = code, serial = publication.revision.serial, "settings in force");
            self.tell(gate);
            self.keep(self.file(site), publication.bytes.clone());
        }
        (verdict, text)
    }

    // ── lists ───────────────────────────────────────────────────────────────────────────────────

    fn load_lists(&mut self, site: usize) {
        let code = self.settings.sites[site].code.clone();
        let mut lists = lists::load(&self.folder, &code);
        // A delta is taken beside the complete list that it is for.
        let is_delta = |list: &List| {
            let trust = &self.in_force.sites[site].trust;
            matches!(lists::read(list, trust), Ok(lists::ReadList::Revocation(list)) if list.is_delta())
        };
        lists.sort_by_cached_key(is_delta);
        for list in lists {
            let trust = self.in_force.sites[site].trust.clone();
            let read = lists::read(&list, &trust);
            let taken = read.map_err(|text| (Verdict::Refused, text));
            let taken = taken.and_then(|read| lists::with_list(&trust, self.blocks[site], &list.tag, read));
            match taken {
                Ok(Some((trust, block))) => self.trust_from_now_on(site, trust, block),
                Ok(None) => {}
                Err((_, error)) => tracing::warn!(site = code, error, "a kept list cannot be used"),
            }
        }
    }

    fn trust_from_now_on(&mut self, site: usize, trust: Trust, block: Option<BlockMark>) {
        let InForce { epoch, table, sites, series, allowances } = &*self.in_force;
        let mut sites = sites.clone();
        sites[site].trust = Arc::new(trust);
        self.blocks[site] = block;
        let (table, series, allowances) = (table.clone(), series.clone(), allowances.clone());
        self.in_force = Arc::new(InForce { epoch: epoch + 1, table, sites, series, allowances });
    }

    /// Whom a site trusts now.
    pub fn trust(&self, site: usize) -> Arc<Trust> {
        self.in_force.sites[site].trust.clone()
    }

    /// Whether a list is wanted.
    pub fn judge_offer(&self, site: usize, tag: &ListTag) -> (Verdict, String) {
        if self.in_force.sites[site].revision.is_none() {
            return (Verdict::Refused, "the site has no settings in force yet".to_owned());
        }
        lists::judge_offer(&self.in_force.sites[site].trust, self.blocks[site], tag)
    }

    /// Takes a list that was read; tells every shard when it changes anything.
    pub fn take_list(
        &mut self,
        gate: &Gate,
        site: usize,
        list: &List,
        read: lists::Read,
    ) -> (Verdict, String) {
        let code = self.settings.sites[site].code.clone();
        let trust = self.trust(site);
        let taken = read.map_err(|text| (Verdict::Refused, text)).and_then(|read| {
            let file = lists::file(&self.folder, &code, &read);
            Ok((lists::with_list(&trust, self.blocks[site], &list.tag, read)?, file))
        });
        match taken {
            Ok((Some((trust, block)), file)) => {
                self.trust_from_now_on(site, trust, block);
                tracing::info!(site = code, kind = ?list.tag.kind, octets = list.tag.size, "list in force");
                self.tell(gate);
                self.keep(file, lists::kept(list));
                (Verdict::InForce, String::new())
            }
            Ok((None, _)) => (Verdict::InForce, String::new()),
            Err((verdict, text)) => {
                tracing::warn!(site = code, error = text, "a list was not taken; what is in force stays");
                (verdict, text)
            }
        }
    }

    /// Takes what a connection point says of tokens; tells every shard when it changes anything. What it
    /// said later is not undone by what it said before, on another channel.
    pub fn take_tokens(&mut self, gate: &Gate, site: usize, point: &Arc<str>, publication: &Publication) {
        let now = gate.shard.now();
        let code = &self.settings.sites[site].code;
        let serial = publication.revision.serial;
        if !self.tokens[site].is_new(point, serial, now) {
            return;
        }
        let material = match TokenMaterial::from_bytes(&publication.bytes) {
            Ok(material) => material,
            Err(fault) => {
                let fault = crate::logs::bounded(fault.to_string());
                tracing::warn!(site = code, point = &**point, "keys and blocked tokens not taken: {fault}");
                return;
            }
        };
        let blocked = material.blocked.len();
        // What is no news would have everybody judged again.
        if self.tokens[site].take(point, serial, material, now) {
            tracing::info!(site = code, point = &**point, blocked, "keys and blocked tokens in force");
            self.believe_anew(gate, site);
        }
    }

    /// Forgets the keys of connection points that have been gone for too long.
    pub fn look_at_tokens(&mut self, gate: &Gate, is_attached: impl Fn(usize, &str) -> bool) {
        for site in 0..self.tokens.len() {
            let gone = self.tokens[site].look(|point| is_attached(site, point), gate.shard.now());
            for point in &gone {
                let code = &self.settings.sites[site].code;
                tracing::warn!(
                    site = code,
                    point = &**point,
                    "gone for a day: the keys it fetched no longer count"
                );
            }
            if !gone.is_empty() {
                self.believe_anew(gate, site);
            }
        }
    }

    /// Puts in force whom a site believes now.
    fn believe_anew(&mut self, gate: &Gate, site: usize) {
        let Some(held) = &self.held[site] else { return };
        let mut sites = self.in_force.sites.clone();
        sites[site].issuers = Arc::new(self.tokens[site].issuers(&held.token_issuers));
        let InForce { epoch, table, series, allowances, .. } = &*self.in_force;
        let (epoch, table, series) = (epoch + 1, table.clone(), series.clone());
        let allowances = allowances.clone();
        self.in_force = Arc::new(InForce { epoch, table, sites, series, allowances });
        self.tell(gate);
    }

    fn tell(&self, gate: &Gate) {
        for shard in 0..gate.port.shards() {
            gate.port.send(shard, GatewayMessage::InForce(self.in_force.clone()));
        }
    }

    /// Keeps what is in force on disk, off the shard: a disk may take its time.
    fn keep(&self, file: PathBuf, bytes: Vec<u8>) {
        let (folder, counts) = (self.folder.clone(), self.written.clone());
        let count = {
            let mut counts = counts.by_file.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(file.clone()).or_default();
            *count += 1;
            *count
        };
        let written = std::thread::Builder::new().name("keep-settings".into()).spawn(move || {
            let Some(_turn) = counts.turn() else { return };
            if counts.by_file.lock().unwrap_or_else(PoisonError::into_inner).get(&file) != Some(&count) {
                // Something newer is to be written there.
                return;
            }
            let kept = std::fs::create_dir_all(&folder).and_then(|()| {
                crate::pki::write_file(&file, &bytes, crate::pki::PUBLIC_MODE).map_err(std::io::Error::other)
            });
            if let Err(error) = kept {
                tracing::error!(file = %file.display(), %error, "what is in force could not be kept");
            }
        });
        if let Err(error) = written {
            tracing::error!(%error, "settings could not be kept");
        }
    }
}

/// Threads write what is in force: one after the other, and nothing over what is newer, be it by the process that
/// takes this one's place.
#[derive(Default)]
pub struct Written {
    /// How often something was to be written to a file.
    by_file: Mutex<HashMap<PathBuf, u64>>,
    /// Held by the thread that writes.
    files: Mutex<Files>,
    decided: Condvar,
}

/// Whose files they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Files {
    /// This process's.
    #[default]
    Ours,
    /// Another process takes its place, or will be lost: writers wait.
    Undecided,
    /// The other one's.
    Theirs,
}

impl Written {
    /// Another process runs and keeps what it hears: nothing is written until it is decided whose files they are.
    /// Waits for what is being written.
    pub fn pause(&self) {
        self.become_of(Files::Undecided);
    }

    /// The other one is lost: what waited is written.
    pub fn go_on(&self) {
        self.become_of(Files::Ours);
    }

    /// The other one has the place: what waited is not written.
    pub fn leave(&self) {
        self.become_of(Files::Theirs);
    }

    fn become_of(&self, whose: Files) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = whose;
        self.decided.notify_all();
    }

    /// A turn to write. `None`: nothing is written any more.
    fn turn(&self) -> Option<MutexGuard<'_, Files>> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let undecided = |files: &mut Files| *files == Files::Undecided;
        let files = self.decided.wait_while(files, undecided).unwrap_or_else(PoisonError::into_inner);
        (*files == Files::Ours).then_some(files)
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::MutualAuth => Family::ServerAuth,
        Family::ServerAuth => Family::MutualAuth,
    }
}

/// Hands a verdict back to the shard of the link that published.
pub fn reply(
    gate: &Rc<Gate>,
    shard: usize,
    link: u64,
    publication: &Publication,
    verdict: (Verdict, String),
) {
    let revision = publication.revision;
    gate.port.send(shard, GatewayMessage::Verdict { link, revision, verdict: verdict.0, text: verdict.1 });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A thread that waits for its turn and tells whether it has it.
    fn writes(written: &Arc<Written>) -> mpsc::Receiver<bool> {
        let (tell, heard) = mpsc::channel();
        let written = written.clone();
        std::thread::spawn(move || tell.send(written.turn().is_some()).unwrap());
        heard
    }

    #[test]
    fn nothing_is_written_over_what_the_next_process_keeps() {
        let written = Arc::new(Written::default());
        assert_eq!(writes(&written).recv(), Ok(true));
        written.pause();
        let waits = writes(&written);
        assert!(waits.recv_timeout(Duration::from_millis(50)).is_err(), "it may be for nothing");
        written.go_on();
        assert_eq!(waits.recv(), Ok(true), "the other one is lost");
        written.pause();
        let waits = writes(&written);
        written.leave();
        assert_eq!(waits.recv(), Ok(false));
        assert_eq!(writes(&written).recv(), Ok(false));
    }

    #[test]
    fn who_pauses_waits_for_what_is_being_written() {
        let written = Arc::new(Written::default());
        let turn = written.turn().unwrap();
        let (tell, heard) = mpsc::channel();
        let pauses = written.clone();
        let pausing = std::thread::spawn(move || {
            pauses.pause();
            tell.send(()).unwrap();
        });
        assert!(heard.recv_timeout(Duration::from_millis(50)).is_err());
        drop(turn);
        heard.recv().unwrap();
        pausing.join().unwrap();
    }
}
