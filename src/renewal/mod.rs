//! A role's internal certificate and the list that revokes others', kept up while the role runs.
//!
//! Files are looked after by `reload`, so that what an operator puts there counts without a start. When two thirds of
//! the certificate's life are over the next one is asked for, by a connection point from the issuer, by a gateway over a
//! channel ([`Carries`]), and put in those files; from there it is taken up like any other. The list also comes from the
//! issuer, or over channels.

mod ask;
mod kept;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

use crate::auth::{ListFault, Renewal, judge_renewed, read_chain};
use crate::limits::{
    INTERNAL_LIST_ASKED_EVERY, RENEWAL_AGAIN_FIRST, RENEWAL_AGAIN_LONGEST, RENEWAL_LOOK_EVERY,
};
use crate::logs;
use crate::metrics::{self, Certificate, Health, Page, is_list_ageing, show_list};
use crate::pki::{self, NewKey, Pair, PkiError};
use crate::review::{INTERNAL, ListRead, list_text};
use crate::settings::InternalFiles;
use crate::transport::Internal;
pub use ask::{Issuer, NOT_ASKED};
pub use kept::KeptList;

/// Who brings what is asked to an issuer.
pub trait Carries: Send {
    /// Brings it there; `take` is given the chain that comes back, and says what is wrong with it. Each time somebody is
    /// asked a `message` of then is brought: an issuer judges no old one.
    ///
    /// # Errors
    /// Nothing came back that was taken.
    fn carry(
        &self,
        message: &dyn Fn() -> Result<Vec<u8>, String>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), NotCarried>;
}

/// Why nothing came back.
#[derive(Debug)]
pub enum NotCarried {
    /// There is nobody to be asked: whoever makes certificates here does it by hand.
    Nobody,
    /// There is no way to anybody now.
    NotYet,
    /// Somebody was asked.
    Failed(String),
}

/// See the file's head.
pub struct Keeper {
    internal: Arc<Internal>,
    place: ArcSwap<Place>,
    trouble: Mutex<Trouble>,
    renewed: AtomicU64,
    failed: AtomicU64,
}

/// Where what is kept up is, and who is asked.
pub struct Place {
    pair: Pair,
    issuer: Option<Issuer>,
}

impl Place {
    /// As settings say whose paths start from `folder`.
    pub fn new(folder: &Path, files: &InternalFiles, issuer: Option<Issuer>) -> Place {
        Place { pair: pair(folder, files), issuer }
    }
}

fn pair(folder: &Path, files: &InternalFiles) -> Pair {
    let identity = &files.identity;
    Pair { certificate: folder.join(&identity.chain), key: folder.join(&identity.key) }
}

/// What is wrong; nothing where empty.
#[derive(Default)]
struct Trouble {
    list: String,
    heard: String,
    issuer: String,
    renewal: String,
}

impl Keeper {
    /// Of what was read at the start.
    pub fn new(internal: &Arc<Internal>, place: Place) -> Arc<Keeper> {
        Arc::new(Keeper {
            internal: internal.clone(),
            place: ArcSwap::from_pointee(place),
            trouble: Mutex::default(),
            renewed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Goes on with what was read and judged anew.
    pub fn go_on_with(&self, read: &Internal, place: Place, list: Option<&ListRead>) {
        self.take_up(read);
        self.place.store(Arc::new(place));
        // One that only another authority signed counts from now on.
        self.take_file(list);
    }

    /// Shows another certificate of the same role and authority, where one was read that is good.
    pub fn take_certificate(&self, read: Option<&Internal>) {
        if let Some(read) = read.filter(|read| self.internal.is_same_role(read)) {
            self.take_up(read);
        }
    }

    fn take_up(&self, read: &Internal) {
        let before = self.internal.own();
        self.internal.take_up(read);
        let own = self.internal.own();
        if own.cert != before.cert {
            let leaf = own.cert.first().map(AsRef::as_ref).unwrap_or_default();
            let serial = pki::serial_of(leaf).map(|serial| serial.to_string()).unwrap_or_default();
            let until = metrics::expiry(&own.cert).and_then(|end| jiff::Timestamp::from_second(end).ok());
            let until = until.map(|end| end.to_string()).unwrap_or_default();
            tracing::info!(serial, until, "another internal certificate; channels that begin now show it");
        }
    }

    /// What is kept up.
    pub fn internal(&self) -> &Arc<Internal> {
        &self.internal
    }

    /// Who is asked, where somebody is.
    pub fn issuer(&self) -> Option<Issuer> {
        self.place.load().issuer.clone()
    }

    /// Looks after everything on threads, as long as somebody needs it. `carries` brings what is asked to an issuer;
    /// `None`: it is asked by itself, where settings name one.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(self: &Arc<Self>, carries: Option<Box<dyn Carries>>) -> std::io::Result<()> {
        if carries.is_none() {
            every(self, "internal-list", INTERNAL_LIST_ASKED_EVERY, Keeper::ask_for_list)?;
        }
        let mut due = Due::default();
        every(self, "internal-renewal", RENEWAL_LOOK_EVERY, move |keeper| {
            keeper.renew_when_due(&mut due, carries.as_deref());
        })
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ── the list ────────────────────────────────────────────────────────────────────────────────

    /// Takes what the list's file holds, where there is one.
    pub fn take_file(&self, list: Option<&ListRead>) {
        let taken = match list {
            Some(Ok(bytes)) => self.take_list(bytes, "its file").map_err(|fault| list_text(&fault)),
            Some(Err(text)) => Err(text.clone()),
            None => Ok(()),
        };
        let trouble = taken.err().map(|text| format!("the list of revoked internal certificates: {text}"));
        self.tell(|all| &mut all.list, trouble);
    }

    /// Takes a list that came from somewhere; one that is older than what is held is no news.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take_list(&self, bytes: &[u8], from: &str) -> Result<(), ListFault> {
        match self.take_newer(bytes, from) {
            Err(older @ ListFault::Older { .. }) => {
                tracing::debug!(from, "{older}");
                Ok(())
            }
            taken => taken,
        }
    }

    /// What is wrong with a list that came over a channel and will be judged again; nothing, if there is none.
    pub fn tell_heard(&self, trouble: Option<String>) {
        self.tell(|all| &mut all.heard, trouble);
    }

    fn take_newer(&self, bytes: &[u8], from: &str) -> Result<(), ListFault> {
        if self.internal.take_lists(bytes)? {
            let listed = self.internal.listed();
            let entries = listed.lists.iter().map(|list| list.len()).sum::<usize>();
            let numbers: Vec<_> = listed.lists.iter().map(|list| list.number_text()).collect();
            let number = numbers.join(", ");
            tracing::info!(from, number, entries, "list of revoked internal certificates in force");
        }
        Ok(())
    }

    fn ask_for_list(&self) {
        let Some(issuer) = self.issuer() else { return self.tell(|all| &mut all.issuer, None) };
        let asked = issuer.list().and_then(|bytes| self.take_issuers(&bytes));
        self.tell(|all| &mut all.issuer, asked.err());
    }

    /// The issuer has the newest list there is, or none.
    fn take_issuers(&self, bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.take_newer(bytes, "the issuer").map_err(|fault| match fault {
            ListFault::Older { .. } => format!(
                "the issuer: {fault}: was its folder put back from a copy? What was revoked since is to be revoked again"
            ),
            fault => list_text(&fault),
        })
    }

    // ── the next certificate ────────────────────────────────────────────────────────────────────

    fn renew_when_due(&self, due: &mut Due, carries: Option<&dyn Carries>) {
        let place = self.place.load_full();
        let own = self.internal.own();
        let Some(leaf) = own.cert.first() else { return };
        if due.of.as_ref() != Some(leaf) {
            *due = Due { of: Some(leaf.clone()), spread: random(), ..Due::default() };
        }
        let now = UnixTime::now().as_secs();
        let end = pki::not_after(leaf).unwrap_or(u64::MAX);
        if end <= now && due.chain.is_none() {
            // Nobody would take what is signed with it.
            return self.tell(|all| &mut all.renewal, Some(EXPIRED.to_owned()));
        }
        let issuer = place.issuer.as_ref().map(|issuer| issuer as &dyn Carries);
        // Whoever makes certificates here does it by hand.
        let Some(carries) = carries.or(issuer) else { return self.tell(|all| &mut all.renewal, None) };
        if pki::renewal_due(leaf, due.spread).is_none_or(|at| at > now) {
            return self.tell(|all| &mut all.renewal, None);
        }
        if due.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let trouble = match self.renew(&own, &place, due, carries) {
            Ok(Renewed::Put) => {
                self.renewed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(file = %place.pair.certificate.display(), "the internal certificate was renewed");
                None
            }
            Ok(Renewed::Already) | Err(NotCarried::Nobody) => None,
            Err(NotCarried::NotYet) => return,
            Err(NotCarried::Failed(text)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                Some(format!("the internal certificate is not renewed: {text}"))
            }
        };
        let wait = again_after(due.attempts, Duration::from_secs(end.saturating_sub(now)), random());
        due.attempts = due.attempts.saturating_add(1);
        due.not_before = Instant::now().checked_add(wait);
        self.tell(|all| &mut all.renewal, trouble);
    }

    /// The next key, and then its chain, stay in `due` until both are in their places: files change only when something
    /// came, and nobody is asked again for what could not be put there.
    fn renew(
        &self,
        own: &CertifiedKey,
        place: &Place,
        due: &mut Due,
        carries: &dyn Carries,
    ) -> Result<Renewed, NotCarried> {
        let failed = |text: String| NotCarried::Failed(text);
        let broken = |error: PkiError| NotCarried::Failed(error.to_string());
        let pair = &place.pair;
        let (name, leaf) = self
            .internal
            .name()
            .zip(own.cert.first())
            .ok_or_else(|| failed("the one in use names no role".to_owned()))?;
        // What an earlier attempt left half done comes first. Where there is somebody to ask and nothing can be put, he
        // need not be asked. While he is, nothing is held.
        if pair.has_next() || place.issuer.is_some() {
            let _turn = pair.lock().map_err(broken)?;
            pair.settle(UnixTime::now().as_secs()).map_err(broken)?;
        }
        let is_other = || pair.leaf().as_ref() != Some(leaf);
        if is_other() {
            return Ok(Renewed::Already);
        }
        let Due { key, chain, .. } = due;
        let key = match key {
            Some(key) => key,
            None => key.insert(NewKey::like(leaf).map_err(broken)?),
        };
        let judge = |chain: &[CertificateDer<'_>]| {
            judge_renewed(chain, &name, &key.public(), &self.internal.trust(), UnixTime::now())
                .map_err(|fault| fault.to_string())
        };
        // What came a while ago may have ended since, or be revoked.
        let chain = match chain.take().filter(|chain| judge(chain).is_ok()) {
            Some(came) => chain.insert(came),
            None => chain.insert(ask_by(carries, &|| sign(own, key.request()), judge)?),
        };
        // Another process of this role may have asked, too, and an operator may have put one there.
        let _turn = pair.lock().map_err(broken)?;
        if is_other() {
            return Ok(Renewed::Already);
        }
        pair.put(chain, key).map(|()| Renewed::Put).map_err(broken)
    }

    // ── telling ─────────────────────────────────────────────────────────────────────────────────

    /// Says once what is wrong, and once that it is not any more.
    fn tell(&self, which: impl Fn(&mut Trouble) -> &mut String, trouble: Option<String>) {
        logs::tell_once(which(&mut self.trouble()), trouble);
    }

    fn troubles(&self) -> Vec<String> {
        let Trouble { list, heard, issuer, renewal } = &*self.trouble();
        [list, heard, issuer, renewal].into_iter().filter(|text| !text.is_empty()).cloned().collect()
    }

    /// When certificates that are shown end, of what files said when they were read last: the internal one may be
    /// another since.
    pub fn ends(&self, mut read: Vec<Certificate>) -> Vec<Certificate> {
        let own = metrics::expiry(&self.internal.own().cert);
        for (_, _, end) in read.iter_mut().filter(|(what, ..)| *what == INTERNAL) {
            *end = own.unwrap_or(*end);
        }
        read
    }

    /// What operators should know of.
    pub fn tell_health(&self, health: &mut Health) {
        let now = UnixTime::now().as_secs();
        self.troubles().into_iter().for_each(|text| health.suffers(text));
        for list in self.internal.listed().lists.iter().filter(|list| is_list_ageing(list, now)) {
            health.suffers(metrics::ageing_text(list, now));
        }
    }

    /// For `/status`.
    pub fn show_state(&self) -> Value {
        let now = UnixTime::now().as_secs();
        let own = self.internal.own();
        let leaf = own.cert.first().map(AsRef::as_ref).unwrap_or_default();
        let time = |seconds: u64| {
            let seconds = i64::try_from(seconds).ok()?;
            jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
        };
        json!({
            "name": self.internal.name().map(|name| name.to_string()),
            "serial": pki::serial_of(leaf).map(|serial| serial.to_string()),
            "expires": pki::not_after(leaf).and_then(time),
            "renewed_from": pki::renewal_due(leaf, u32::MAX).and_then(time),
            "renewals": self.renewed.load(Ordering::Relaxed),
            "renewals_failed": self.failed.load(Ordering::Relaxed),
            "lists": self.internal.listed().lists.iter().map(|list| show_list(list, now)).collect::<Vec<_>>(),
            "trouble": self.troubles(),
        })
    }

    /// For `/metrics`.
    pub fn describe(&self, page: &mut Page, prefix: &str) {
        let mut count = |name: &str, help: &str, value: &AtomicU64| {
            page.counter(&format!("{prefix}_{name}"), help).count(&[], value.load(Ordering::Relaxed));
        };
        count("internal_renewals_total", "Internal certificates renewed since the start.", &self.renewed);
        count("internal_renewal_failures_total", "Attempts at that which failed.", &self.failed);
        let mut rows = page.gauge(
            &format!("{prefix}_internal_trouble"),
            "1 when the internal certificate, its renewal or the list of revoked ones is not as it should be.",
        );
        rows.count(&[], u64::from(!self.troubles().is_empty()));
        let mut rows = page.gauge(
            &format!("{prefix}_internal_list_next_update_timestamp_seconds"),
            "Until when the next list of revoked internal certificates comes, in seconds since 1970.",
        );
        for list in &self.internal.listed().lists {
            rows.count(&[("issuer", &list.issuer_text)], list.next_update);
        }
    }
}

/// Finishes what a renewal that was interrupted left, before a role's files are read. While what it gives is held no
/// other process of the role changes them.
pub fn settle(folder: &Path, files: &InternalFiles) -> Option<File> {
    let pair = pair(folder, files);
    // Where there is no lock, or none can be had, nobody renews.
    let turn = pair.wait().ok()?;
    // What is wrong is told when the files are read.
    let _ = pair.settle(UnixTime::now().as_secs());
    Some(turn)
}

/// What operators are told of a certificate that nobody can renew any more.
const EXPIRED: &str = "the internal certificate has expired and cannot be renewed: make it by hand (cmg pki)";

/// The chain that comes of a `message`, if that is what it is to be.
fn ask_by(
    carries: &dyn Carries,
    message: &dyn Fn() -> Result<Vec<u8>, String>,
    judge: impl Fn(&[CertificateDer<'_>]) -> Result<(), String>,
) -> Result<Vec<CertificateDer<'static>>, NotCarried> {
    let mut given = None;
    let mut take = |bytes: &[u8]| {
        let chain = read_chain(bytes).ok_or("what came back is no chain")?;
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        judge(&chain)?;
        given = Some(chain);
        Ok(())
    };
    carries.carry(message, &mut take)?;
    given.ok_or_else(|| NotCarried::Failed("nothing came back".to_owned()))
}

/// What became of a renewal.
enum Renewed {
    /// Another certificate is in the files.
    Put,
    /// There was another than the one in use; it is about to be taken up.
    Already,
}

/// When the next certificate is asked for, and what there is of it already.
#[derive(Default)]
struct Due {
    of: Option<CertificateDer<'static>>,
    spread: u32,
    attempts: u32,
    not_before: Option<Instant>,
    /// The key that it is for.
    key: Option<NewKey>,
    /// What came for that key, and is not in its place yet.
    chain: Option<Vec<CertificateDer<'static>>>,
}

/// The wait before another attempt: doubled each time, bounded by what is left of the certificate's life, though never
/// shorter than the first, and jittered by half.
fn again_after(attempts: u32, left: Duration, random: u32) -> Duration {
    let doubled = RENEWAL_AGAIN_FIRST.saturating_mul(1 << attempts.min(16));
    let full = doubled.min(RENEWAL_AGAIN_LONGEST).min((left / 10).max(RENEWAL_AGAIN_FIRST));
    full / 2 + full.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

/// What is sent for a request, signed with the key in use.
fn sign(own: &CertifiedKey, request: &[u8]) -> Result<Vec<u8>, String> {
    let now = UnixTime::now().as_secs();
    let unsigned = Renewal::unsigned(now, &own.cert, request).ok_or("its chain is too long")?;
    let signer = own.key.choose_scheme(&SCHEMES).ok_or("its key is of a kind that signs nothing here")?;
    let signature = signer.sign(&unsigned).map_err(|error| error.to_string())?;
    Renewal::signed(&unsigned, &signature).ok_or_else(|| "its chain is too long".to_owned())
}

const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// Does `work` now and then, for as long as there is the keeper.
fn every(
    keeper: &Arc<Keeper>,
    name: &str,
    pause: Duration,
    mut work: impl FnMut(&Keeper) + Send + 'static,
) -> std::io::Result<()> {
    let keeper: Weak<Keeper> = Arc::downgrade(keeper);
    let run = move || {
        while let Some(keeper) = keeper.upgrade() {
            work(&keeper);
            drop(keeper);
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests;
