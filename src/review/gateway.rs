//! `gateway.toml` and what it names.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::KeyUsage;

use super::certificates::{Dated, Pair, bears, holds_key_of, is_for_servers, names, parse};
use super::ports::{self, Listener};
use super::{Desk, Document, FileRead, Findings, ListRead, kept, shown};
use crate::auth::{InternalName, InternalRole};
use crate::handover::SocketKind;
use crate::metrics;
use crate::settings::{GatewaySettings, InternalFiles, Kind, SettingsError, SettingsErrors};
use crate::transport::Internal;
use crate::upgrade::{Inheritance, Outside};

/// Use of a certificate that clients are shown.
pub const SERVER: &str = "server";

/// A gateway's settings with everything they name, judged.
pub struct GatewayReview {
    /// The file.
    pub document: Document,
    /// What was found.
    pub findings: Findings,
    /// As read; `None` where the text alone is wrong.
    pub settings: Option<GatewaySettings>,
    /// Those of the server certificates that are whole.
    pub(super) servers: Vec<Pair>,
    ticket_secret: Option<[u8; 32]>,
    ends: Vec<metrics::Certificate>,
    reads: Vec<FileRead>,
    pub(super) internal_ca: Vec<CertificateDer<'static>>,
    pub(super) internal: Option<Pair>,
    identity: Option<Arc<Internal>>,
    /// Whom the internal CA has revoked, where a file says so.
    pub list: Option<ListRead>,
}

/// What a gateway works by: everything that can go wrong has gone right.
pub struct GatewayWorks {
    /// The settings.
    pub settings: GatewaySettings,
    /// Shown to clients, in the order of the settings.
    pub server_keys: Vec<Arc<CertifiedKey>>,
    /// For session tickets.
    pub ticket_secret: Option<[u8; 32]>,
    /// Who we are on channels, and whom to believe.
    pub internal: Arc<Internal>,
    /// Whom the internal CA has revoked, where a file says so.
    pub list: Option<ListRead>,
    /// When the certificates shown end.
    pub ends: Vec<metrics::Certificate>,
    /// The files that were read for it, the settings among them.
    pub reads: Vec<FileRead>,
}

/// What a gateway starts with: everything that can go wrong has gone right.
pub struct GatewayStart {
    /// What it works by, until that is reloaded.
    pub works: GatewayWorks,
    /// What paths in the settings start from.
    pub folder: PathBuf,
    /// The file.
    pub document: Document,
    /// In the order of the settings.
    pub listeners: Vec<OwnedFd>,
    /// The same for connection points.
    pub internal_listeners: Vec<OwnedFd>,
    /// The same for those that come by HTTPS.
    pub https_listeners: Vec<OwnedFd>,
    /// The admin's, and where another process asks for this one's place.
    pub outside: Outside,
}

impl GatewayReview {
    /// Judges `document` and what it names; listeners are looked at by [`ports`](Self::ports) or bound by
    /// [`into_start`](Self::into_start).
    pub fn of(document: Document, now: UnixTime) -> GatewayReview {
        GatewayReview::after(|_, _| (), document, now)
    }

    /// As [`of`](Self::of), with something that comes before the files are read, and what that gives is held until they
    /// are: given what paths start from, and who the role is on channels.
    pub fn after<T>(
        first: impl FnOnce(&Path, &InternalFiles) -> T,
        document: Document,
        now: UnixTime,
    ) -> GatewayReview {
        let mut review = GatewayReview {
            findings: Findings::default(),
            settings: None,
            servers: Vec::new(),
            ticket_secret: None,
            ends: Vec::new(),
            reads: Vec::new(),
            internal_ca: Vec::new(),
            internal: None,
            identity: None,
            list: None,
            document,
        };
        let Document { text, name, .. } = &review.document;
        match Kind::Gateway.expect(text, name).and_then(|()| GatewaySettings::parse(text, name)) {
            Ok(settings) => {
                let _held = first(&review.document.folder(), &settings.internal);
                review.look(settings, now);
            }
            Err(SettingsErrors(errors)) => review.findings.errors = errors,
        }
        review.findings.sort();
        review
    }

    fn look(&mut self, settings: GatewaySettings, now: UnixTime) {
        let document = self.document.clone();
        let mut desk = Desk::new(&document, now);
        self.servers = server_certificates(&mut desk, &settings);
        self.ticket_secret =
            settings.ticket_keys.as_ref().and_then(|file| desk.secret("gateway.ticket_keys", file));
        proxies(&mut desk, &settings);
        desk.state("gateway.state_dir", &settings.state_dir);
        (self.internal_ca, self.internal) = internal(&mut desk, &settings);
        self.identity = desk.internal_identity(&self.internal_ca, self.internal.as_ref());
        self.list = desk.internal_list(&settings.internal, self.identity.as_deref());
        no_authority_key(&mut desk, &settings, &self.internal_ca);
        desk.log(&settings.log);
        desk.admin(&settings.admin);
        desk.overlaps(&listeners(&settings));
        self.findings = desk.findings;
        (self.ends, self.reads) = (desk.ends, desk.reads);
        self.settings = Some(settings);
    }

    /// Who it is on channels by its files, if nothing is wrong with those, whatever is with others.
    pub fn identity(&self) -> Option<&Internal> {
        self.identity.as_deref().filter(|_| self.findings.is_sound("internal."))
    }

    /// Every listener, the admin's included.
    pub fn listeners(&self) -> Vec<Listener> {
        self.settings.as_ref().map(listeners).unwrap_or_default()
    }

    /// Looks whether the listeners could be bound now; gives those that somebody has.
    pub fn ports(&mut self, now: UnixTime) -> Vec<Listener> {
        let mut desk = Desk::new(&self.document, now);
        let taken = desk.untakable(&self.listeners());
        let findings = desk.findings;
        self.findings.join(findings);
        taken
    }

    /// The files that were read, that of the settings among them, and those that could not be.
    pub fn reads(&self) -> Vec<FileRead> {
        let Document { path, text, .. } = &self.document;
        let own = FileRead::new("", path.clone(), Some(text.as_bytes()));
        std::iter::once(own).chain(self.reads.iter().cloned()).collect()
    }

    /// Hands over what a process that runs already goes on with.
    ///
    /// # Errors
    /// Every mistake.
    pub fn into_works(self) -> Result<GatewayWorks, SettingsErrors> {
        self.findings.verdict()?;
        let reads = self.reads();
        let (Some(settings), Some(internal)) = (self.settings, self.identity) else {
            return Err(SettingsErrors(Vec::new()));
        };
        Ok(GatewayWorks {
            settings,
            server_keys: self.servers.into_iter().map(|pair| pair.certified).collect(),
            ticket_secret: self.ticket_secret,
            internal,
            list: self.list,
            ends: self.ends,
            reads,
        })
    }

    /// Binds the listeners that were not inherited and hands over what was read.
    ///
    /// # Errors
    /// Every mistake; then nothing is bound.
    pub fn into_start(self, mut inherited: Inheritance) -> Result<GatewayStart, SettingsErrors> {
        let document = self.document.clone();
        let works = self.into_works()?;
        let settings = &works.settings;
        let clients = Listener::of_list("listener", &settings.listeners);
        let channels = Listener::of_list("internal.listener", &settings.internal_listeners);
        let https = Listener::of_list("internal.https_listener", &settings.https_listeners);
        let until = ports::patience();
        let mut bind = |kind, listeners: &[Listener]| {
            ports::bind_all(&document, (kind, listeners), until, &mut inherited)
        };
        let bound = [
            bind(SocketKind::Clients, &clients),
            bind(SocketKind::Channels, &channels),
            bind(SocketKind::Channels, &https),
        ];
        let admin = Listener::of_admin(&settings.admin);
        let mut errors = ports::try_all(&document, &admin, until, &inherited);
        let mut sockets = Vec::new();
        for outcome in bound {
            match outcome {
                Ok(list) => sockets.push(list),
                Err(list) => errors.extend(list),
            }
        }
        if !errors.is_empty() {
            errors.sort_by_key(|error| (error.line, error.column));
            return Err(SettingsErrors(errors));
        }
        let mut next = || sockets.pop().unwrap_or_default();
        let (https_listeners, internal_listeners, listeners) = (next(), next(), next());
        let outside = kept::outside(&document, &settings.admin, &settings.log, &mut inherited)?;
        inherited.close_rest();
        Ok(GatewayStart {
            works,
            folder: document.folder(),
            document,
            listeners,
            internal_listeners,
            https_listeners,
            outside,
        })
    }
}

/// The certificates that clients are shown, as their files are now.
pub struct ServerKeys {
    /// In the order of the settings.
    pub keys: Vec<Arc<CertifiedKey>>,
    /// When they end.
    pub ends: Vec<metrics::Certificate>,
    /// What will be a mistake soon.
    pub warnings: Vec<SettingsError>,
}

impl ServerKeys {
    /// Reads them, and judges them as a start does.
    ///
    /// # Errors
    /// Every mistake.
    pub fn read(
        document: &Document,
        settings: &GatewaySettings,
        now: UnixTime,
    ) -> Result<ServerKeys, SettingsErrors> {
        let mut desk = Desk::new(document, now);
        let pairs = server_certificates(&mut desk, settings);
        desk.findings.sort();
        desk.findings.verdict()?;
        let keys = pairs.into_iter().map(|pair| pair.certified).collect();
        Ok(ServerKeys { keys, ends: desk.ends, warnings: desk.findings.warnings })
    }
}

fn listeners(settings: &GatewaySettings) -> Vec<Listener> {
    let mut all = Listener::of_list("listener", &settings.listeners);
    all.extend(Listener::of_list("internal.listener", &settings.internal_listeners));
    all.extend(Listener::of_list("internal.https_listener", &settings.https_listeners));
    all.extend(Listener::of_admin(&settings.admin));
    all
}

fn server_certificates(desk: &mut Desk<'_>, settings: &GatewaySettings) -> Vec<Pair> {
    let mut pairs: Vec<(String, PathBuf, Pair)> = Vec::new();
    for (index, files) in settings.server_certificates.iter().enumerate() {
        let section = format!("server_certificate[{}]", index + 1);
        let (chain, key) = (format!("{section}.chain"), format!("{section}.key"));
        let Some(pair) = desk.pair(&chain, &key, files) else { continue };
        desk.shows(SERVER, &files.chain, &pair);
        for der in &pair.certified.cert {
            desk.dates(&chain, &files.chain, der, Dated::Error);
        }
        if !is_for_servers(pair.leaf()) {
            let found = format!("{}, which is not meant for servers", shown(&desk.folder.join(&files.chain)));
            desk.error(&chain, found, "a certificate whose extended key usage allows server authentication");
        }
        pairs.push((chain, files.chain.clone(), pair));
    }
    let name = &settings.name;
    let is_whole = pairs.len() == settings.server_certificates.len();
    let is_borne = pairs.iter().any(|(_, _, pair)| bears(pair.leaf(), name));
    for (chain, file, pair) in &pairs {
        if is_borne || !is_whole {
            break;
        }
        let (found, expected) = lacking(name, pair.leaf());
        let found = format!("{}, {found}", shown(&desk.folder.join(file)));
        desk.error(chain, found, expected);
    }
    pairs.into_iter().map(|(_, _, pair)| pair).collect()
}

/// What a certificate bears instead of `name`, and what to ask for.
fn lacking(name: &str, leaf: &[u8]) -> (String, String) {
    let borne = names(leaf);
    let expected = format!("a certificate for \"{name}\" (gateway.name) as a DNS name");
    if borne.is_empty() {
        let is_common = parse(leaf).is_some_and(|certificate| {
            certificate
                .subject()
                .iter_common_name()
                .any(|common| common.as_str().is_ok_and(|text| text == name))
        });
        let found = if is_common {
            "which bears its name as common name alone, where no client looks"
        } else {
            "which bears no DNS name at all"
        };
        return (found.to_owned(), format!("{expected} (subject alternative name)"));
    }
    let found = format!("which bears {}", borne.join(", "));
    let under_wildcard = borne.iter().any(|pattern| {
        pattern
            .strip_prefix("*.")
            .is_some_and(|domain| name.strip_suffix(domain).is_some_and(|left| left.ends_with('.')))
    });
    let note = if under_wildcard { "; a wildcard stands for one label, not for several" } else { "" };
    (found, format!("{expected}{note}"))
}

fn internal(desk: &mut Desk<'_>, settings: &GatewaySettings) -> (Vec<CertificateDer<'static>>, Option<Pair>) {
    let files = &settings.internal;
    let ca = desk.internal_ca(&files.ca);
    let instance = &settings.instance;
    let expected = format!(
        "cmg://gateway/{instance} as a URI: the internal certificate of instance {instance} (cmg pki gateway {instance})"
    );
    let is_own = |name: &InternalName| name.role == InternalRole::Gateway && name.name == *instance;
    let pair = desk.internal_pair(files, &ca, KeyUsage::server_auth(), &expected, is_own);
    (ca, pair)
}

impl Desk<'_> {
    /// The certificates of the internal CA, judged; none where they are not whole.
    pub(super) fn internal_ca(&mut self, file: &std::path::Path) -> Vec<CertificateDer<'static>> {
        let key = "internal.ca";
        let Some(ca) = self.certificates(key, file) else { return Vec::new() };
        for der in &ca {
            self.dates(key, file, der, Dated::Error);
            if !super::certificates::is_authority(der) {
                let found = format!(
                    "{}: {}, which may sign nothing",
                    shown(&self.folder.join(file)),
                    super::certificates::subject(der)
                );
                self.error(key, found, "the certificate of an authority (basic constraints CA)");
            }
        }
        ca
    }
}

/// Who has the internal authority's key can be any connection point and any instance; it has no place on a machine that
/// the internet reaches.
fn no_authority_key(desk: &mut Desk<'_>, settings: &GatewaySettings, ca: &[CertificateDer<'static>]) {
    let mut files: Vec<(String, PathBuf)> = vec![
        ("internal.ca".to_owned(), settings.internal.ca.clone()),
        ("internal.certificate".to_owned(), settings.internal.identity.chain.clone()),
        ("internal.key".to_owned(), settings.internal.identity.key.clone()),
    ];
    for (index, pair) in settings.server_certificates.iter().enumerate() {
        let section = format!("server_certificate[{}]", index + 1);
        files.push((format!("{section}.chain"), pair.chain.clone()));
        files.push((format!("{section}.key"), pair.key.clone()));
    }
    if let Some(protection) = &settings.admin.protection {
        files.push(("admin.certificate".to_owned(), protection.identity.chain.clone()));
        files.push(("admin.key".to_owned(), protection.identity.key.clone()));
    }
    let ticket_keys =
        settings.ticket_keys.iter().map(|file| ("gateway.ticket_keys".to_owned(), file.clone()));
    files.extend(settings.internal.crl.iter().map(|file| ("internal.crl".to_owned(), file.clone())));
    files.extend(ticket_keys);
    let expected =
        "no key of the internal authority on a gateway: it belongs on the machine of cmg issuer alone";
    for (key, file) in files {
        if holds_key_of(&desk.folder.join(&file), ca) {
            let found = format!("{}, which holds it", shown(&desk.folder.join(&file)));
            desk.error(&key, found, expected);
        }
    }
    let beside = settings.internal.ca.with_extension("key");
    if holds_key_of(&desk.folder.join(&beside), ca) {
        let found = format!("{} beside it, which holds its key", shown(&desk.folder.join(&beside)));
        desk.warn("internal.ca", found, expected);
    }
}

/// Whoever is taken for a proxy names any client it likes.
fn proxies(desk: &mut Desk<'_>, settings: &GatewaySettings) {
    for (index, network) in settings.proxies.iter().enumerate() {
        if network.prefix_len() == 0 {
            let key = format!("gateway.proxy_protocol_from[{}]", index + 1);
            let expected = "the proxies' own addresses: whoever is listed says who its client is";
            desk.warn(&key, network.to_string(), expected);
        }
    }
}
