//! `connector.toml`, its site's file, and what both name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use super::certificates::Pair;
use super::ports::{self, Listener};
use super::site::{Site, SiteReview, never_clients};
use super::{Desk, Document, FileRead, Findings, ListRead, kept, shown};
use crate::auth::{InternalName, InternalRole};
use crate::limits;
use crate::metrics;
use crate::settings::{
    ConnectorSettings, InternalFiles, Kind, ProxySettings, SettingsError, SettingsErrors, SiteSettings,
};
use crate::transport::{Internal, listen, tls_config};
use crate::upgrade::{Inheritance, Outside};

/// A connection point's settings with everything they name, judged.
pub struct ConnectorReview {
    /// The file.
    pub document: Document,
    /// What was found, in the site's file too.
    pub findings: Findings,
    /// As read; `None` where the text alone is wrong.
    pub settings: Option<ConnectorSettings>,
    /// The site's file, where it could be read.
    pub site: Option<SiteReview>,
    pub(super) internal_ca: Vec<CertificateDer<'static>>,
    pub(super) internal: Option<Pair>,
    tls: Option<(Arc<ClientConfig>, Arc<Internal>)>,
    /// Whom the internal CA has revoked, where a file says so.
    pub list: Option<ListRead>,
    proxy_password: Option<String>,
    ends: Vec<metrics::Certificate>,
    reads: Vec<FileRead>,
}

/// What a connection point works by: everything that can go wrong has gone right.
pub struct ConnectorWorks {
    /// The settings.
    pub settings: ConnectorSettings,
    /// Its site.
    pub site: Site,
    /// TLS towards instances, by what `internal` shows and believes then.
    pub tls: Arc<ClientConfig>,
    /// Who we are on channels, and whom to believe.
    pub internal: Arc<Internal>,
    /// Whom the internal CA has revoked, where a file says so.
    pub list: Option<ListRead>,
    /// What the HTTP proxy is shown besides the user's name.
    pub proxy_password: Option<String>,
    /// When the certificates shown end.
    pub ends: Vec<metrics::Certificate>,
    /// The files that were read for it, the settings among them.
    pub reads: Vec<FileRead>,
}

/// What a connection point starts with: everything that can go wrong has gone right.
pub struct ConnectorStart {
    /// The file of its settings.
    pub document: Document,
    /// What paths in them start from.
    pub folder: PathBuf,
    /// What it works by, until that is reloaded.
    pub works: ConnectorWorks,
    /// The admin's listeners, and where another process asks for this one's place.
    pub outside: Outside,
}

impl ConnectorReview {
    /// Judges `document` and what it names.
    pub fn of(document: Document, now: UnixTime) -> ConnectorReview {
        ConnectorReview::after(|_, _| (), document, now)
    }

    /// As [`of`](Self::of), with something that comes before the files are read, and what that gives is held until they
    /// are: given what paths start from, and who the role is on channels.
    pub fn after<T>(
        first: impl FnOnce(&Path, &InternalFiles) -> T,
        document: Document,
        now: UnixTime,
    ) -> ConnectorReview {
        let mut review = ConnectorReview {
            findings: Findings::default(),
            settings: None,
            site: None,
            internal_ca: Vec::new(),
            internal: None,
            tls: None,
            list: None,
            proxy_password: None,
            ends: Vec::new(),
            reads: Vec::new(),
            document,
        };
        let Document { text, name, .. } = &review.document;
        match Kind::Connector.expect(text, name).and_then(|()| ConnectorSettings::parse(text, name)) {
            Ok(settings) => {
                let _held = first(&review.document.folder(), &settings.internal);
                review.look(settings, now);
            }
            Err(SettingsErrors(errors)) => review.findings.errors = errors,
        }
        review.findings.sort();
        if let Some(site) = &review.site {
            review.findings.join(site.findings.clone());
        }
        review
    }

    fn look(&mut self, settings: ConnectorSettings, now: UnixTime) {
        let document = self.document.clone();
        let mut desk = Desk::new(&document, now);
        self.site = site(&mut desk, &settings, now);
        let code = self.site.as_ref().and_then(|site| site.settings.as_ref()).map(|site| site.code.clone());
        (self.internal_ca, self.internal) = internal(&mut desk, &settings, code.as_deref());
        let internal = desk.internal_identity(&self.internal_ca, self.internal.as_ref());
        self.list = desk.internal_list(&settings.internal, internal.as_deref());
        self.tls = internal.and_then(|internal| Some((tls_config::for_dialling(&internal).ok()?, internal)));
        if let Some(site) = &self.site {
            let own = self.internal.as_ref().map(|pair| pair.certified.cert.as_slice());
            never_clients(&mut desk, &site.trust, &self.internal_ca, own);
        }
        if let Some(site) = self.site.as_ref().and_then(|site| site.settings.as_ref()) {
            families(&mut desk, &settings, site);
        }
        self.proxy_password = settings.proxy.as_ref().and_then(|proxy| proxy_password(&mut desk, proxy));
        desk.log(&settings.log);
        desk.admin(&settings.admin);
        desk.overlaps(&Listener::of_admin(&settings.admin));
        self.findings = desk.findings;
        (self.ends, self.reads) = (desk.ends, desk.reads);
        self.ends.extend(self.site.iter().flat_map(|site| site.ends.clone()));
        self.settings = Some(settings);
    }

    /// Who it is on channels by its files, if nothing is wrong with those, whatever is with others.
    pub fn identity(&self) -> Option<&Internal> {
        self.tls.as_ref().map(|(_, internal)| &**internal).filter(|_| self.findings.is_sound("internal."))
    }

    /// Every listener: those of the admin.
    pub fn listeners(&self) -> Vec<Listener> {
        self.settings.as_ref().map(|settings| Listener::of_admin(&settings.admin)).unwrap_or_default()
    }

    /// Looks whether the listeners could be bound now; gives those that somebody has.
    pub fn ports(&mut self, now: UnixTime) -> Vec<Listener> {
        let mut desk = Desk::new(&self.document, now);
        let taken = desk.untakable(&self.listeners());
        desk.findings.errors.extend(self.foreign_sources());
        let findings = desk.findings;
        self.findings.join(findings);
        taken
    }

    /// Source addresses that this machine does not have.
    fn foreign_sources(&self) -> Vec<SettingsError> {
        let sources = self.settings.iter().flat_map(|settings| &settings.source_addresses).enumerate();
        let foreign = sources.filter_map(|(index, address)| {
            let error = listen::dialler_from(Some(*address), (*address, 0).into(), None).err()?;
            let found = format!("\"{address}\", which connections cannot come from: {error}");
            let expected = "an address of this machine (ip address; ip address add gives it another)";
            let key = format!("connector.source_addresses[{}]", index + 1);
            Some(self.document.source().error(&key, found, expected))
        });
        foreign.collect()
    }

    /// The files that were read, those of settings among them, and those that could not be.
    pub fn reads(&self) -> Vec<FileRead> {
        let Document { path, text, .. } = &self.document;
        let mut reads = vec![FileRead::new("", path.clone(), Some(text.as_bytes()))];
        reads.extend(self.reads.iter().cloned());
        match (&self.site, &self.settings) {
            (Some(site), _) => {
                let Document { path, text, .. } = &site.document;
                reads.push(FileRead::new("connector.site", path.clone(), Some(text.as_bytes())));
                reads.extend(site.reads.iter().cloned());
            }
            (None, Some(settings)) => {
                let path = self.document.folder().join(&settings.site);
                reads.push(FileRead::new("connector.site", path, None));
            }
            (None, None) => {}
        }
        reads
    }

    /// Hands over what a process that runs already goes on with.
    ///
    /// # Errors
    /// Every mistake.
    pub fn into_works(self) -> Result<ConnectorWorks, SettingsErrors> {
        self.findings.verdict()?;
        let foreign = self.foreign_sources();
        let reads = self.reads();
        let site = self.site.and_then(SiteReview::into_site);
        match (self.settings, site, self.tls, foreign.is_empty()) {
            (Some(settings), Some(site), Some((tls, internal)), true) => {
                let (proxy_password, ends, list) = (self.proxy_password, self.ends, self.list);
                Ok(ConnectorWorks { settings, site, tls, internal, list, proxy_password, ends, reads })
            }
            _ => Err(SettingsErrors(foreign)),
        }
    }

    /// Hands over what was read.
    ///
    /// # Errors
    /// Every mistake.
    pub fn into_start(self, mut inherited: Inheritance) -> Result<ConnectorStart, SettingsErrors> {
        self.findings.verdict()?;
        let mut errors = ports::try_all(&self.document, &self.listeners(), ports::patience(), &inherited);
        if !errors.is_empty() {
            errors.extend(self.foreign_sources());
            return Err(SettingsErrors(errors));
        }
        let document = self.document.clone();
        let works = self.into_works()?;
        let ConnectorSettings { admin, log, .. } = &works.settings;
        let outside = kept::outside(&document, admin, log, &mut inherited)?;
        inherited.close_rest();
        Ok(ConnectorStart { folder: document.folder(), document, works, outside })
    }
}

/// A file of one line.
fn proxy_password(desk: &mut Desk<'_>, proxy: &ProxySettings) -> Option<String> {
    let (_, file) = proxy.credentials.as_ref()?;
    let (key, expected) = ("proxy.password_file", "a file with the password alone, in one line");
    let bytes = desk.read(key, file, expected)?;
    if let Err(found) = desk.is_private(file) {
        desk.warn(
            key,
            found,
            "mode 0600 (or 0640): a password that every account here can read is no secret",
        );
    }
    let text = String::from_utf8(bytes).unwrap_or_default();
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    let is_sound = (1..=limits::PROXY_WORD_SIZE_MAX).contains(&password.len());
    if !is_sound || password.contains(char::is_control) {
        // Nothing of it is told.
        desk.error(key, format!("{}, which holds none", shown(&desk.folder.join(file))), expected);
        return None;
    }
    Some(password.to_owned())
}

/// An origin whose address is of no source address's family would be dialled from anywhere.
fn families(desk: &mut Desk<'_>, settings: &ConnectorSettings, site: &SiteSettings) {
    let sources = &settings.source_addresses;
    for origin in &site.origins {
        let Ok(ip) = origin.address.host.parse::<IpAddr>() else { continue };
        if !sources.is_empty() && sources.iter().all(|source| source.is_ipv4() != ip.is_ipv4()) {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let found = format!("no address of {family}, but the origin {}", origin.address.authority());
            desk.error("connector.source_addresses", found, format!("an address of {family} among them"));
        }
    }
}

fn site(desk: &mut Desk<'_>, settings: &ConnectorSettings, now: UnixTime) -> Option<SiteReview> {
    let path = desk.folder.join(&settings.site);
    match Document::open(&path) {
        Ok(document) => Some(SiteReview::of(document, now)),
        Err(error) => {
            let found = format!("{}: {}", shown(&path), error.found);
            desk.error("connector.site", found, "the site's settings (site.toml)");
            None
        }
    }
}

fn internal(
    desk: &mut Desk<'_>,
    settings: &ConnectorSettings,
    site: Option<&str>,
) -> (Vec<CertificateDer<'static>>, Option<Pair>) {
    let files = &settings.internal;
    let ca = desk.internal_ca(&files.ca);
    // A gateway would refuse a name that differs from the certificate; here it is said before we dial.
    let identity = &settings.identity;
    let code = site.unwrap_or("CODE");
    let expected = format!(
        "cmg://site/{code}/connector/{identity} as a URI: the internal certificate of connection point \
         {identity} (cmg pki connector {identity} --site {code})"
    );
    let is_own = |name: &InternalName| {
        let is_of_site = site.is_none_or(|site| name.site.as_deref() == Some(site));
        name.role == InternalRole::Connector && name.name == *identity && is_of_site
    };
    let pair = desk.internal_pair(files, &ca, KeyUsage::client_auth(), &expected, is_own);
    (ca, pair)
}
