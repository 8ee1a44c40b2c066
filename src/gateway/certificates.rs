//! The gateway's certificates: which one a client is shown, and whom to believe on channels. The files
//! are read and judged by `review`, those of server certificates again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::gate::Common;
use crate::limits;
use crate::metrics;
use crate::review::{SERVER, ServerKeys};
use crate::settings::{SettingsErrors, TlsVersion};
use crate::transport::{FOR_CLIENTS, Internal, StartError, Tickets, tls_config};

/// The section of settings that names those which clients are shown.
pub const KEY: &str = "server_certificate";

/// TLS for clients, with the tickets that are held already, if there are such.
///
/// # Errors
/// What the system or rustls says; mistakes in files were found before.
pub fn client_config(
    shown: Arc<Shown>,
    ticket_secret: Option<&[u8; 32]>,
    held: Option<Arc<dyn ProducesTickets>>,
    tls_min: TlsVersion,
) -> Result<Arc<ServerConfig>, StartError> {
    let tickets = match (held, ticket_secret) {
        (Some(tickets), _) => tickets,
        (None, Some(secret)) => Tickets::new(secret, FOR_CLIENTS),
        (None, None) => Tickets::of_this_process(FOR_CLIENTS)
            .map_err(|_| StartError("the system gives no randomness".into()))?,
    };
    tls_config::for_clients(shown, tickets, tls_min).map_err(|error| StartError(error.to_string()))
}

/// TLS for connection points.
///
/// # Errors
/// As [`client_config`].
pub fn channel_config(internal: &Arc<Internal>) -> Result<Arc<ServerConfig>, StartError> {
    tls_config::for_channels(internal).map_err(|error| StartError(format!("internal certificate: {error}")))
}

/// The certificates that clients are shown. What their files hold takes the place of what is shown while the
/// gateway runs, once it is whole.
#[derive(Debug)]
pub struct Shown {
    keys: ArcSwap<Vec<Arc<CertifiedKey>>>,
    /// Of these and of the one that connection points are shown: for what, which file, when they end.
    ends: ArcSwap<Vec<metrics::Certificate>>,
    /// Why what the files hold is not shown; nothing when it is.
    trouble: Mutex<String>,
}

impl Shown {
    /// These.
    pub fn new(keys: Vec<Arc<CertifiedKey>>, ends: Vec<metrics::Certificate>) -> Shown {
        let (keys, ends) = (ArcSwap::from_pointee(keys), ArcSwap::from_pointee(ends));
        Shown { keys, ends, trouble: Mutex::default() }
    }

    /// For what each is, its file, and when it ends.
    pub fn ends(&self) -> Arc<Vec<metrics::Certificate>> {
        self.ends.load_full()
    }

    /// Why what the files hold is not shown; nothing when it is.
    pub fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on what was read, if it could be; says so once.
    fn take(&self, read: Result<ServerKeys, SettingsErrors>) {
        let trouble = match read {
            Ok(read) => {
                self.show(read);
                String::new()
            }
            Err(SettingsErrors(errors)) => {
                errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
        };
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if !trouble.is_empty() && *told != trouble {
            tracing::error!("server certificates cannot be shown, those before are: {trouble}");
        }
        if trouble.is_empty() && !told.is_empty() {
            tracing::info!("the files of server certificates are whole again");
        }
        *told = trouble;
    }

    /// Whether these are shown.
    pub fn shows(&self, keys: &[Arc<CertifiedKey>]) -> bool {
        let shown = self.keys.load();
        let is_same = |(one, other): (&Arc<CertifiedKey>, &Arc<CertifiedKey>)| one.cert == other.cert;
        shown.len() == keys.len() && shown.iter().zip(keys).all(is_same)
    }

    /// These from now on, which were judged with everything else.
    pub fn replace(&self, keys: Vec<Arc<CertifiedKey>>, ends: Vec<metrics::Certificate>) {
        self.keys.store(Arc::new(keys));
        self.ends.store(Arc::new(ends));
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn show(&self, read: ServerKeys) {
        let ServerKeys { keys, mut ends, warnings } = read;
        if self.shows(&keys) {
            return;
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let until = |(_, file, end): &metrics::Certificate| {
            let end = jiff::Timestamp::from_second(*end).map(|end| end.to_string()).unwrap_or_default();
            format!("{file} until {end}")
        };
        let shown: Vec<String> = ends.iter().map(until).collect();
        tracing::info!("server certificates changed: {}", shown.join(", "));
        ends.extend(self.ends.load().iter().filter(|(what, ..)| *what != SERVER).cloned());
        self.keys.store(Arc::new(keys));
        self.ends.store(Arc::new(ends));
    }
}

impl ResolvesServerCert for Shown {
    /// The first that bears the name asked for and that the client can check; else the first it can check.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys.load();
        let usable = || keys.iter().filter(|one| one.key.choose_scheme(hello.signature_schemes()).is_some());
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            usable().find(|one| bears(one, &name))
        });
        named.or_else(|| usable().next()).cloned()
    }
}

fn bears(one: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = one.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
    leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
}

// ── what changes ────────────────────────────────────────────────────────────────────────────────

/// Of a file: its number on the disk, when it was changed, how long it is. A link tells of what it leads to.
type Mark = Option<(u64, i64, i64, u64)>;

fn mark(file: &PathBuf) -> Mark {
    let facts = fs::metadata(file).ok()?;
    Some((facts.ino(), facts.ctime(), facts.ctime_nsec(), facts.len()))
}

/// Looks after the files of server certificates as long as there is a gateway.
pub fn watch(gateway: &Weak<Common>) {
    let (mut seen, mut judged) = (Vec::new(), None);
    loop {
        thread::sleep(limits::CERTIFICATE_FILES_EVERY);
        let Some(gateway) = gateway.upgrade() else { return };
        let (local, document) = (gateway.local.load_full(), gateway.document.load_full());
        let pairs = local.settings.server_certificates.iter();
        let files = pairs.flat_map(|pair| [&pair.chain, &pair.key]);
        let marks: Vec<Mark> = files.map(|file| mark(&gateway.folder.join(file))).collect();
        let is_still = marks == seen;
        let shown = &gateway.certificates;
        // What is wrong may be right in a while without a file that changes: a certificate not valid yet.
        let is_due = judged.as_ref() != Some(&marks) || !shown.trouble().is_empty();
        if is_still && is_due {
            shown.take(ServerKeys::read(&document, &local.settings, UnixTime::now()));
            judged = Some(marks.clone());
        }
        seen = marks;
    }
}
