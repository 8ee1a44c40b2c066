//! Certificates and keys that settings name: read, and judged one by one and against each other.

use std::path::Path;
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Desk, FileRead, shown};
use crate::auth::{self, InternalName, ListFault, Trust, internal_identity};
use crate::metrics;
use crate::settings::{InternalFiles, KeyPair};
use crate::transport::Internal;
use crate::transport::tls_config::Credential;

/// A certificate with less than this left is told of: time enough to have one made by another department.
const SOON_DAYS: u64 = 30;
const DAY: u64 = 24 * 60 * 60;

/// A chain and its key, that belong together.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub certified: Arc<CertifiedKey>,
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl Pair {
    pub(super) fn credential(&self) -> Credential {
        Credential { chain: self.certified.cert.clone(), key: self.key.clone_key() }
    }

    pub(super) fn leaf(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    pub(super) fn algorithm(&self) -> SignatureAlgorithm {
        self.certified.key.algorithm()
    }
}

/// Whether a certificate past its life is a mistake, or one of several that may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dated {
    Error,
    Warning,
}

impl Desk<'_> {
    /// Every certificate of a PEM file; at least one, and each can be read.
    pub(super) fn certificates(&mut self, key: &str, file: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let expected = "a PEM file with at least one certificate (-----BEGIN CERTIFICATE-----)";
        let sections = self.sections(key, file, expected)?;
        let certificates: Vec<_> = sections
            .iter()
            .filter(|(kind, _)| *kind == SectionKind::Certificate)
            .map(|(_, der)| CertificateDer::from(der.clone()))
            .collect();
        let path = shown(&self.folder.join(file));
        if certificates.is_empty() {
            self.error(key, format!("{path}: no certificate, {}", contents(&sections)), expected);
            return None;
        }
        for (index, der) in certificates.iter().enumerate() {
            if parse(der).is_none() || EndEntityCert::try_from(der).is_err() {
                let found = format!("{path}: certificate number {} cannot be read as X.509", index + 1);
                self.error(key, found, "certificates of version 3 that are whole");
                return None;
            }
        }
        Some(certificates)
    }

    /// The key of a PEM file.
    fn private_key(&mut self, key: &str, file: &Path) -> Option<PrivateKeyDer<'static>> {
        let expected = "a PEM file with a private key (PKCS#8, PKCS#1 or SEC1) without a passphrase";
        let sections = self.sections(key, file, expected)?;
        if let Err(found) = self.is_private(file) {
            self.warn(
                key,
                found,
                "mode 0600 (or 0640): a private key that every account here can read is no secret",
            );
        }
        let found = sections.iter().find_map(|(kind, der)| PrivateKeyDer::from_pem(*kind, der.clone()));
        if found.is_none() {
            let path = shown(&self.folder.join(file));
            self.error(key, format!("{path}: no private key, {}", contents(&sections)), expected);
        }
        found
    }

    fn sections(&mut self, key: &str, file: &Path, expected: &str) -> Option<Vec<(SectionKind, Vec<u8>)>> {
        let bytes = self.read(key, file, expected)?;
        let path = shown(&self.folder.join(file));
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
            let expected =
                "a key without a passphrase (openssl pkey -in FILE -out NEW), readable by its owner alone";
            self.error(key, format!("{path}: a private key under a passphrase"), expected);
            return None;
        }
        if !text.contains("-----BEGIN ") {
            let what = match bytes.as_slice() {
                [] => "an empty file",
                [0x30, ..] => "binary (DER or PKCS#12), not PEM",
                _ => "not PEM",
            };
            self.error(key, format!("{path}: {what}"), expected);
            return None;
        }
        let sections: Result<Vec<(SectionKind, Vec<u8>)>, _> = PemObject::pem_slice_iter(&bytes).collect();
        sections
            .map_err(|error| {
                self.error(key, format!("{path}: damaged PEM: {}", explain_pem(&error)), expected)
            })
            .ok()
    }

    /// A chain and its key; `chain` and `key` are the keys in the settings.
    pub(super) fn pair(&mut self, chain: &str, key: &str, pair: &KeyPair) -> Option<Pair> {
        let certificates = self.certificates(chain, &pair.chain);
        let private = self.private_key(key, &pair.key);
        let (certificates, private) = (certificates?, private?);
        let path = shown(&self.folder.join(&pair.key));
        let signing = match any_supported_type(&private) {
            Ok(signing) => signing,
            Err(_) => {
                let expected = "an RSA key of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519";
                self.error(key, format!("{path}: a private key of a kind that is not supported"), expected);
                return None;
            }
        };
        let certified = CertifiedKey::new(certificates, signing);
        if certified.keys_match().is_err() {
            let leaf = self.folder.join(&pair.chain);
            let (subject, of) = (subject(&certified.cert[0]), key_name(&certified.cert[0]));
            let found = format!("{path}, a key that does not belong to the certificate in {}", shown(&leaf));
            let is_further = certified.cert[1..].iter().any(|other| {
                CertifiedKey::new(vec![other.clone()], certified.key.clone()).keys_match().is_ok()
            });
            let expected = if is_further {
                format!("the certificate of this key to come first in {}", shown(&leaf))
            } else {
                format!("the private key of {subject} ({of})")
            };
            self.error(key, found, expected);
            return None;
        }
        self.order(chain, &pair.chain, &certified.cert);
        Some(Pair { certified: Arc::new(certified), key: Arc::new(private) })
    }

    /// Keeps when a certificate ends that the role shows; `what` is what for.
    pub(super) fn shows(&mut self, what: &'static str, file: &Path, pair: &Pair) {
        let end = metrics::expiry(&pair.certified.cert);
        self.ends.extend(end.map(|end| (what, file.display().to_string(), end)));
        // One file may be named several times.
        self.ends.sort();
        self.ends.dedup();
    }

    /// Says where a chain file holds what is no chain: peers that do not search would not find the way.
    fn order(&mut self, key: &str, file: &Path, chain: &[CertificateDer<'static>]) {
        let parsed: Vec<_> = chain.iter().filter_map(|der| parse(der)).collect();
        let broken = parsed.windows(2).position(|two| two[0].issuer().as_raw() != two[1].subject().as_raw());
        if let Some(at) = broken {
            let path = shown(&self.folder.join(file));
            let found = format!(
                "{path}: certificate number {} ({}) is not that of the issuer of number {}",
                at + 2,
                parsed[at + 1].subject(),
                at + 1
            );
            let expected = format!("the leaf first, then each its issuer: {}", parsed[at].issuer());
            self.warn(key, found, expected);
        }
    }

    /// What a role shows on channels: of the internal CA, fit for `usage`, and naming the role as `is_own` has it.
    pub(super) fn internal_pair(
        &mut self,
        files: &InternalFiles,
        ca: &[CertificateDer<'static>],
        usage: KeyUsage,
        expected: &str,
        is_own: impl Fn(&InternalName) -> bool,
    ) -> Option<Pair> {
        let key = "internal.certificate";
        let own = self.pair(key, "internal.key", &files.identity)?;
        let file = &files.identity.chain;
        self.shows(INTERNAL, file, &own);
        for der in &own.certified.cert {
            self.dates(key, file, der, Dated::Error);
        }
        if !ca.is_empty() {
            self.internal_chain(key, file, &own, ca, usage);
        }
        let path = shown(&self.folder.join(file));
        match internal_identity(own.leaf()) {
            Ok(name) if is_own(&name) => {}
            Ok(name) => self.error(key, format!("{path}, which names {name}"), expected),
            Err(fault) => self.error(key, format!("{path}: {fault}"), expected),
        }
        Some(own)
    }

    /// Who the role is on channels and whom it believes, of what was read.
    pub(super) fn internal_identity(
        &mut self,
        ca: &[CertificateDer<'static>],
        own: Option<&Pair>,
    ) -> Option<Arc<Internal>> {
        let own = own.filter(|_| !ca.is_empty())?;
        match Internal::new(ca, own.credential()) {
            Ok(internal) => Some(internal),
            Err(error) => {
                self.error("internal.ca", error.to_string(), "certificates that can be trusted");
                None
            }
        }
    }

    /// Whom the internal CA has revoked, where a file says so; `internal` has that list then. It may come later and
    /// change at any time, so that what is wrong with it keeps nothing from starting.
    pub(super) fn internal_list(
        &mut self,
        files: &InternalFiles,
        internal: Option<&Internal>,
    ) -> Option<ListRead> {
        let path = self.folder.join(files.crl.as_ref()?);
        let read = super::read_list(&path).map_err(|error| error.to_string());
        self.reads.push(FileRead::new(INTERNAL_LIST, path.clone(), read.as_deref().ok()));
        let judge = |bytes: &Vec<u8>| match internal.map(|internal| internal.take_lists(bytes)) {
            Some(Err(fault)) => Err(list_text(&fault)),
            Some(Ok(_)) | None => Ok(()),
        };
        let whole = |text: String| format!("{}: {text}", shown(&path));
        if let Err(text) = read.as_ref().map_err(String::clone).and_then(judge) {
            self.warn(INTERNAL_LIST, whole(text), "a revocation list of the internal CA (cmg pki crl)");
        }
        Some(read.map_err(whole))
    }

    /// Judges the life of a certificate; whether it is valid now.
    pub(super) fn dates(&mut self, key: &str, file: &Path, der: &[u8], dated: Dated) -> bool {
        let Some(certificate) = parse(der) else { return false };
        let now = self.now.as_secs();
        let begin = u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0);
        let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let what = format!("{}: {}", shown(&self.folder.join(file)), certificate.subject());
        let expected = "a certificate that is valid now";
        let (found, is_over) = if now < begin {
            (format!("{what} is not valid before {}", date(begin)), true)
        } else if now > end {
            (format!("{what} expired at {}", date(end)), true)
        } else if end - now < SOON_DAYS * DAY {
            (format!("{what} expires at {}, in {} days", date(end), (end - now) / DAY), false)
        } else {
            return true;
        };
        match (is_over, dated) {
            (true, Dated::Error) => self.error(key, found, expected),
            (true, Dated::Warning) => self.warn(key, found, expected),
            (false, _) => self.warn(key, found, format!("{SOON_DAYS} days left at least: time to renew it")),
        }
        !is_over
    }

    /// Whether an internal certificate is the internal CA's and fit for `usage`; says what it is not.
    pub(super) fn internal_chain(
        &mut self,
        key: &str,
        file: &Path,
        pair: &Pair,
        ca: &[CertificateDer<'static>],
        usage: KeyUsage,
    ) -> bool {
        let Err(why) = chains_to(&pair.certified.cert, ca, self.now, usage) else { return true };
        let path = shown(&self.folder.join(file));
        let (subject, issuer) = (subject(pair.leaf()), issuer(pair.leaf()));
        let names: Vec<_> = ca.iter().map(|der| super::certificates::subject(der)).collect();
        let (found, expected) = match why {
            ChainFault::Stranger => (
                format!("{path}: {subject}, issued by {issuer}"),
                format!("a certificate signed by the internal CA ({})", names.join(" or ")),
            ),
            ChainFault::Usage => (
                format!(
                    "{path}: {subject}, whose extended key usage does not allow what this role does with it"
                ),
                "server authentication for a gateway, client authentication for a connection point"
                    .to_owned(),
            ),
            // Told by `dates` already.
            ChainFault::Dates => return false,
            ChainFault::Other(text) => {
                (format!("{path}: {subject}: {text}"), "a chain that is valid".to_owned())
            }
        };
        self.error(key, found, expected);
        false
    }
}

/// What is wrong with a list of the internal authority.
pub fn list_text(fault: &ListFault) -> String {
    match fault {
        ListFault::UnknownIssuer(name) => {
            format!("the list is that of {name:?}, which internal.ca does not name")
        }
        fault => fault.to_string(),
    }
}

/// Use of the internal certificate among those shown.
pub const INTERNAL: &str = "internal";

/// A list's file as it was read, or why it could not be.
pub type ListRead = Result<Vec<u8>, String>;

/// Keys of the files that say who a role is on channels, and whom it believes there.
pub const INTERNAL_FILES: [&str; 3] = ["internal.ca", "internal.certificate", "internal.key"];
/// Key of the file that says who is not believed any more.
pub const INTERNAL_LIST: &str = "internal.crl";

/// Why a chain does not lead to an anchor.
pub(super) enum ChainFault {
    Stranger,
    Usage,
    Dates,
    Other(String),
}

/// Whether `chain` leads to one of `ca`.
pub(super) fn chains_to(
    chain: &[CertificateDer<'static>],
    ca: &[CertificateDer<'static>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(), ChainFault> {
    let Some((leaf, between)) = chain.split_first() else { return Err(ChainFault::Stranger) };
    let anchors: Vec<_> = ca.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
    let end = EndEntityCert::try_from(leaf).map_err(|error| ChainFault::Other(error.to_string()))?;
    let verified =
        end.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, between, now, usage, None, None);
    verified.map(drop).map_err(|error| match error {
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => ChainFault::Stranger,
        webpki::Error::RequiredEkuNotFoundContext(_) => ChainFault::Usage,
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => ChainFault::Dates,
        other => ChainFault::Other(other.to_string()),
    })
}

/// Whether `parent` signed `child`.
pub(super) fn is_signed_by(child: &[u8], parent: &CertificateDer<'_>) -> bool {
    let Some(parsed) = parse(child) else { return false };
    let Ok(above) = EndEntityCert::try_from(parent) else { return false };
    webpki::ALL_VERIFICATION_ALGS.iter().any(|algorithm| {
        above
            .verify_signature(*algorithm, parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
            .is_ok()
    })
}

/// Whether clients would take the certificate for `name`.
pub(super) fn bears(der: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    EndEntityCert::try_from(der).is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
}

/// DNS names and addresses a certificate bears, as people write them.
pub(super) fn names(der: &[u8]) -> Vec<String> {
    let Some(certificate) = parse(der) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            _ => {
                <[u8; 16]>::try_from(*octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string())
            }
        },
        _ => None,
    };
    names.filter_map(text).collect()
}

/// Whether extended key usage, where there is any, allows a server.
pub(super) fn is_for_servers(der: &[u8]) -> bool {
    let Some(certificate) = parse(der) else { return false };
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => usage.value.server_auth || usage.value.any,
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Whether there is a private key of one of these certificates in the PEM file, if it is one.
pub(super) fn holds_key_of(file: &Path, certificates: &[CertificateDer<'static>]) -> bool {
    let Ok(bytes) = super::read_bounded(file) else { return false };
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes).filter_map(Result::ok);
    let keys = sections.filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    let mut public = keys.filter_map(|key| {
        let key = any_supported_type(&key).ok()?;
        key.public_key().map(|public| public.to_vec())
    });
    public.any(|public| {
        certificates.iter().any(|der| parse(der).is_some_and(|one| one.public_key().raw == public))
    })
}

/// Whether two certificates are of one key.
pub(super) fn is_same_key(one: &[u8], other: &[u8]) -> bool {
    let (Some(one), Some(other)) = (parse(one), parse(other)) else { return false };
    one.public_key().raw == other.public_key().raw
}

/// Distinguished name of the owner.
pub(super) fn subject(der: &[u8]) -> String {
    parse(der).map_or_else(String::new, |certificate| crate::auth::name_text(certificate.subject()))
}

/// Distinguished name of the issuer.
pub(super) fn issuer(der: &[u8]) -> String {
    parse(der).map_or_else(String::new, |certificate| crate::auth::name_text(certificate.issuer()))
}

/// Octets of both names: owner, issuer.
pub(super) fn raw_names(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let certificate = parse(der)?;
    Some((certificate.subject().as_raw().to_vec(), certificate.issuer().as_raw().to_vec()))
}

/// Whether it may sign others.
pub(super) fn is_authority(der: &[u8]) -> bool {
    parse(der).is_some_and(|certificate| certificate.is_ca())
}

fn key_name(der: &[u8]) -> &'static str {
    use x509_parser::public_key::PublicKey;
    let Some(certificate) = parse(der) else { return "unknown" };
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(_)) => "an RSA key",
        Ok(PublicKey::EC(_)) => "an ECDSA key",
        _ => "another kind of key",
    }
}

pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, parsed)| parsed)
}

fn contents(sections: &[(SectionKind, Vec<u8>)]) -> String {
    let name = |kind: &SectionKind| match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::PublicKey => "a public key",
        SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => "a private key",
        SectionKind::Crl => "a revocation list",
        SectionKind::Csr => "a signing request",
        _ => "something else",
    };
    match sections.first() {
        None => "nothing that is known".to_owned(),
        Some((kind, _)) => format!("but {}", name(kind)),
    }
}

fn explain_pem(error: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { .. } => "a section without its -----END line".to_owned(),
        Error::IllegalSectionStart { .. } => "a -----BEGIN line that is not whole".to_owned(),
        Error::Base64Decode(_) => "what stands between BEGIN and END is no base64".to_owned(),
        other => other.to_string(),
    }
}

/// A time as people write it.
pub(super) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("second {seconds}"), |time| time.to_string())
}

/// Judges the sample certificate of a client in a PEM file as a request's is judged: the line to say.
///
/// # Errors
/// Why it would not be accepted, or cannot be read; the reason names the missing link.
pub fn sample_client(file: &Path, trust: &Trust, now: UnixTime) -> Result<String, String> {
    let bytes = super::read_bounded(file).map_err(|error| super::trouble(&error))?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = PemObject::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| format!("damaged PEM: {}", explain_pem(&error)))?;
    if chain.is_empty() {
        return Err("no certificate in it; expected PEM, the client's own first".to_owned());
    }
    let facts = auth::judge(&chain, trust, now).map_err(|fault| {
        let refusal = fault.refusal();
        format!("{fault}; the client would be answered {} {}", refusal.status(), refusal.reason())
    })?;
    Ok(format!(
        "{}, issued by {}, is accepted as a client until {}",
        facts.subject,
        facts.issuer,
        date(facts.valid.until)
    ))
}
