//! `site.toml` and what it names: the site's trust, and how its origins are believed.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificates::{Dated, is_authority, is_same_key, is_signed_by, issuer, raw_names, subject};
use super::tokens::{SiteTokens, tokens};
use super::{Desk, Document, FileRead, Findings, shown};
use crate::auth::{BlockList, RevocationList, RevocationMode, Trust, list_der};
use crate::limits::INTERMEDIATE_COUNT_MAX;
use crate::metrics;
use crate::settings::{
    Kind, ListSource, OriginSettings, OriginTrust, PublishedTrust, Revision, SettingsErrors, SiteSettings,
};
use crate::transport::tls_config;

/// How an origin is spoken to; `None` is without TLS.
pub type Origin = Option<(Arc<ClientConfig>, ServerName<'static>)>;

/// A site's settings with everything they name, judged.
pub struct SiteReview {
    /// The file.
    pub document: Document,
    /// What was found.
    pub findings: Findings,
    /// As read; `None` where the text alone is wrong.
    pub settings: Option<SiteSettings>,
    /// Whom the site trusts, as far as it could be read.
    pub trust: PublishedTrust,
    /// The same with the lists whose files are there.
    clients: Trust,
    tokens: SiteTokens,
    origins: Vec<Origin>,
    pub(super) ends: Vec<metrics::Certificate>,
    pub(super) reads: Vec<FileRead>,
    published: Option<(Vec<u8>, Revision)>,
}

/// What a connection point starts with of its site.
pub struct Site {
    /// The settings.
    pub settings: SiteSettings,
    /// What paths in them start from.
    pub folder: PathBuf,
    /// In the order of the settings.
    pub origins: Vec<Origin>,
    /// Whose tokens it takes.
    pub tokens: SiteTokens,
    /// What gateways are told, in octets.
    pub published: Vec<u8>,
    /// Which settings those are.
    pub revision: Revision,
    /// Whom the site trusts, as published.
    pub anchors: PublishedTrust,
    /// The same, ready for judging.
    pub trust: Trust,
    /// Where its revocation lists come from.
    pub crls: Vec<ListSource>,
    /// Its block list.
    pub blocked: Option<PathBuf>,
}

impl SiteReview {
    /// Judges `document` and what it names.
    pub fn of(document: Document, now: UnixTime) -> SiteReview {
        let mut review = SiteReview {
            findings: Findings::default(),
            settings: None,
            trust: PublishedTrust::default(),
            clients: Trust::default(),
            tokens: SiteTokens::default(),
            origins: Vec::new(),
            ends: Vec::new(),
            reads: Vec::new(),
            published: None,
            document,
        };
        let Document { text, name, .. } = &review.document;
        match Kind::Site.expect(text, name).and_then(|()| SiteSettings::parse(text, name)) {
            Ok(settings) => review.look(settings, now),
            Err(SettingsErrors(errors)) => review.findings.errors = errors,
        }
        review.findings.sort();
        review
    }

    fn look(&mut self, settings: SiteSettings, now: UnixTime) {
        let document = self.document.clone();
        let mut desk = Desk::new(&document, now);
        self.trust = trust(&mut desk, &settings);
        self.clients = lists(&mut desk, &settings, &self.trust);
        let origins = settings.origins.iter().zip(&settings.origin_keys);
        self.origins = origins.filter_map(|(origin, key)| origin_tls(&mut desk, key, origin)).collect();
        self.tokens = tokens(&mut desk, &settings);
        let mut published = settings.publish(self.trust.clone());
        published.token_issuers.clone_from(&self.tokens.issuers);
        match published.check() {
            Ok(()) => {
                let bytes = published.to_bytes();
                let revision = Revision::of(&published, &bytes);
                self.published = Some((bytes, revision));
            }
            Err(error) => desk.error("trust", error.to_string(), "settings that a gateway takes"),
        }
        self.findings = desk.findings;
        (self.ends, self.reads) = (desk.ends, desk.reads);
        self.settings = Some(settings);
    }

    /// Whose tokens it takes, as far as it could be read.
    pub fn tokens(&self) -> &SiteTokens {
        &self.tokens
    }

    /// Which settings it publishes, where it can be said.
    pub fn revision(&self) -> Option<&Revision> {
        self.published.as_ref().map(|(_, revision)| revision)
    }

    /// What gateways are told, in octets, where it can be said.
    pub fn published(&self) -> Option<&[u8]> {
        self.published.as_ref().map(|(bytes, _)| bytes.as_slice())
    }

    /// The site's trust, ready for judging, with the lists whose files are there. Those that are fetched are
    /// not, so that nobody is refused for want of one.
    pub fn clients(&self) -> Trust {
        self.clients.clone()
    }

    /// What was read, where nothing was wrong.
    pub(super) fn into_site(self) -> Option<Site> {
        let (published, revision) = self.published?;
        let settings = self.settings?;
        let folder = self.document.folder();
        let trust = Trust::new(&self.trust.roots, &self.trust.intermediates).unwrap_or_default();
        let crls = settings.revocation.crls.iter().map(|source| match source {
            ListSource::File(file) => ListSource::File(folder.join(file)),
            ListSource::Url(url) => ListSource::Url(url.clone()),
        });
        let crls = if settings.revocation.mode == RevocationMode::Off { Vec::new() } else { crls.collect() };
        let blocked = settings.trust.blocked.as_ref().map(|file| folder.join(file));
        (self.origins.len() == settings.origins.len()).then_some(Site {
            origins: self.origins,
            tokens: self.tokens,
            settings,
            folder,
            published,
            revision,
            anchors: self.trust,
            trust,
            crls,
            blocked,
        })
    }
}

/// A certificate of the trust, and where it is named.
struct Named {
    key: String,
    file: PathBuf,
    der: CertificateDer<'static>,
}

fn trust(desk: &mut Desk<'_>, settings: &SiteSettings) -> PublishedTrust {
    let mut read = |list: &str, files: &[PathBuf]| {
        let mut all = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let key = format!("trust.{list}[{}]", index + 1);
            for der in desk.certificates(&key, file).unwrap_or_default() {
                all.push(Named { key: key.clone(), file: file.clone(), der });
            }
        }
        all
    };
    let roots = read("roots", &settings.trust.roots);
    let intermediates = read("intermediates", &settings.trust.intermediates);
    for one in roots.iter().chain(&intermediates) {
        if !is_authority(&one.der) {
            let found = format!(
                "{}: {}, which may sign nothing",
                shown(&desk.folder.join(&one.file)),
                subject(&one.der)
            );
            desk.error(&one.key, found, "the certificate of an authority (basic constraints CA)");
        }
    }
    // Of several a passed one is in nobody's way; where it is the only one, nobody gets in.
    let now = desk.now.as_secs();
    let is_over = |one: &Named| {
        super::certificates::parse(&one.der).is_some_and(|certificate| {
            u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0) < now
                || u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0) > now
        })
    };
    let dated = if roots.iter().all(is_over) { Dated::Error } else { Dated::Warning };
    for one in &roots {
        desk.dates(&one.key, &one.file, &one.der, dated);
    }
    for one in &intermediates {
        desk.dates(&one.key, &one.file, &one.der, Dated::Warning);
        leads_to_a_root(desk, one, &intermediates, &roots);
    }
    if settings.trust.roots.is_empty() {
        desk.warn("trust.roots", "no root", "one at least: without it no client certificate is accepted");
    }
    let octets = |list: &[Named]| list.iter().map(|one| one.der.to_vec()).collect();
    let allowed = settings.trust.allowed.clone();
    PublishedTrust { roots: octets(&roots), intermediates: octets(&intermediates), allowed }
}

/// Looks at the files of lists as they are now. They may come later and change at any time, so that what
/// is wrong with them keeps nothing from starting.
fn lists(desk: &mut Desk<'_>, settings: &SiteSettings, trust: &PublishedTrust) -> Trust {
    let Ok(clients) = Trust::new(&trust.roots, &trust.intermediates) else { return Trust::default() };
    let is_off = settings.revocation.mode == RevocationMode::Off;
    let mode = if is_off { RevocationMode::Off } else { RevocationMode::Soft };
    let mut clients = clients.with_rules(trust.allowed.clone(), mode, settings.revocation.grace.as_secs());
    if is_off {
        desk.fine("revocation: lists are not looked at, a revoked certificate is let in");
    }
    for (index, source) in settings.revocation.crls.iter().enumerate() {
        let ListSource::File(file) = source else { continue };
        let key = format!("revocation.crls[{}]", index + 1);
        let path = desk.folder.join(file);
        let now = desk.now.as_secs();
        let read = super::read_list(&path).map_err(|error| error.to_string()).and_then(|bytes| {
            let der = list_der(&bytes).map_err(|fault| fault.to_string())?;
            RevocationList::read(&der, &clients, now).map_err(|fault| fault.to_string())
        });
        if let Ok(list) = &read {
            // Of two lists of one authority the newer counts.
            let _ = clients.take_list(Arc::new(list.clone()));
        }
        match read {
            Ok(list) if metrics::is_list_ageing(&list, now) => {
                desk.warn(&key, metrics::ageing_text(&list, now), "a newer list");
            }
            Ok(list) => {
                let (issuer, count) = (&list.issuer_text, list.len());
                desk.fine(format!("{key}: the list of {issuer} names {count} certificates"));
            }
            Err(text) => {
                let found = format!("{}: {text}", shown(&path));
                desk.warn(&key, found, "a revocation list of an authority in trust");
            }
        }
    }
    let Some(file) = &settings.trust.blocked else { return clients };
    let path = desk.folder.join(file);
    let read = super::read_list(&path).map_err(|error| error.to_string());
    match read.and_then(|bytes| BlockList::parse(&bytes).map_err(|fault| fault.to_string())) {
        Ok(list) => clients.block(list),
        Err(text) => {
            let found = format!("{}: {text}", shown(&path));
            desk.warn("trust.blocked", found, "a block list, which may be empty");
        }
    }
    clients
}

/// Follows an intermediate up to a root, and names the link that is missing.
fn leads_to_a_root(desk: &mut Desk<'_>, one: &Named, intermediates: &[Named], roots: &[Named]) {
    let path = shown(&desk.folder.join(&one.file));
    let mut current = &one.der;
    for _ in 0..=INTERMEDIATE_COUNT_MAX {
        let Some((own, above)) = raw_names(current) else { return };
        let is_above = |other: &&Named| raw_names(&other.der).is_some_and(|(subject, _)| subject == above);
        if let Some(root) = roots.iter().find(|root| is_above(root) && is_signed_by(current, &root.der)) {
            let (subject, root) = (subject(&one.der), subject(&root.der));
            desk.fine(format!("{}: {subject} leads to the root {root}", one.key));
            return;
        }
        if own == above {
            let found = format!("{path}: {}, which is a root itself", subject(&one.der));
            desk.error(&one.key, found, "an issuing CA here, and the root in trust.roots");
            return;
        }
        match intermediates.iter().find(|other| is_above(other) && is_signed_by(current, &other.der)) {
            Some(next) => current = &next.der,
            None => break,
        }
    }
    let same_name = roots.iter().chain(intermediates).any(|other| {
        raw_names(&other.der)
            .is_some_and(|(subject, _)| raw_names(current).is_some_and(|(_, above)| above == subject))
    });
    let why = if same_name {
        "another certificate of that name, which did not sign it"
    } else {
        "no such certificate"
    };
    let found = format!("{path}: {}, issued by {}: {why} here", subject(current), issuer(current));
    desk.error(
        &one.key,
        found,
        "every CA between this one and a root in trust.intermediates, the root in trust.roots",
    );
}

fn origin_tls(desk: &mut Desk<'_>, section: &str, origin: &OriginSettings) -> Option<Origin> {
    let key = |name: &str| format!("{section}.{name}");
    let trust = match &origin.trust {
        OriginTrust::Plain => return Some(None),
        OriginTrust::Thumbprint(sha256) => Some(tls_config::OriginTrust::Thumbprint(*sha256)),
        OriginTrust::Ca(file) => desk.certificates(&key("ca"), file).map(|ca| {
            for der in &ca {
                desk.dates(&key("ca"), file, der, Dated::Warning);
            }
            tls_config::OriginTrust::Roots(ca)
        }),
    };
    let own = origin.client_certificate.as_ref().map(|files| {
        let pair = desk.pair(&key("certificate"), &key("key"), files);
        if let Some(pair) = &pair {
            desk.shows("origin", &files.chain, pair);
            desk.dates(&key("certificate"), &files.chain, pair.leaf(), Dated::Error);
        }
        pair
    });
    let own = match own {
        Some(None) => return None,
        Some(Some(pair)) => Some(pair.credential()),
        None => None,
    };
    let host = &origin.address.host;
    let name = match ServerName::try_from(host.clone()) {
        Ok(name) => name,
        Err(_) => {
            desk.error(
                &key("url"),
                format!("\"{host}\", which no certificate can bear"),
                "a DNS name or an address",
            );
            return None;
        }
    };
    match tls_config::for_origin(trust?, own) {
        Ok(config) => Some(Some((config, name))),
        Err(error) => {
            desk.error(&key("ca"), error.to_string(), "certificates that can be trusted");
            None
        }
    }
}

/// Internal identities are never those of clients: neither may the internal CA be trusted for clients,
/// nor anything above it.
pub(super) fn never_clients(
    desk: &mut Desk<'_>,
    trust: &PublishedTrust,
    internal_ca: &[CertificateDer<'static>],
    internal: Option<&[CertificateDer<'static>]>,
) {
    let expected = "an internal CA of its own, which no client's trust leads to (cmg pki init makes both)";
    for ca in internal_ca {
        let trusted = trust.roots.iter().chain(&trust.intermediates);
        if trusted.into_iter().any(|der| is_same_key(der, ca)) {
            let found = format!("{}, which the site trusts for clients as well (trust)", subject(ca));
            desk.error("internal.ca", found, expected);
            return;
        }
    }
    let Some(own) = internal else { return };
    let chain: Vec<_> = own.iter().chain(internal_ca).cloned().collect();
    let clients = Trust::new(&trust.roots, &trust.intermediates).unwrap_or_default();
    if crate::auth::judge(&chain, &clients, desk.now).is_ok() {
        let found =
            "a certificate that the site would accept as a client's: its CA is below a root of trust.roots";
        desk.error("internal.certificate", found, expected);
    }
}
