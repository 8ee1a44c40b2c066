//! A client's certificate chain, judged against the trust of one site.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::name::name_text;
use super::revocation::{Linked, Unrevoked};
use super::trust::{Trust, key_of};
use crate::limits::{CERTIFICATE_CHAIN_SIZE_MAX, INTERMEDIATE_COUNT_MAX};
use crate::refusal::Refusal;

/// What is known of a client whose certificate was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Distinguished name, as in `CN=client1, O=Contoso`.
    pub subject: String,
    /// Distinguished name of who issued it.
    pub issuer: String,
    /// Serial number, lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub thumbprint: [u8; 32],
    /// When every certificate on the way to the anchor lives, and its revocation lists vouch for it.
    pub valid: Validity,
    /// Of each certificate that is on no revocation list in force, why; the site admits that.
    pub unchecked: Vec<CertificateFault>,
}

/// Seconds since 1970 in which certificates live, both ends among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The latest start.
    pub from: u64,
    /// The earliest end.
    pub until: u64,
}

impl Validity {
    /// Whether all of them live at `now`.
    pub fn contains(self, now: UnixTime) -> bool {
        (self.from..=self.until).contains(&now.as_secs())
    }

    /// When these live and those of `other`.
    pub(super) fn and(self, other: Validity) -> Validity {
        Validity { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// A time that cannot be told is never.
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Validity {
        let (from, until) = (certificate.validity().not_before, certificate.validity().not_after);
        Validity {
            from: u64::try_from(from.timestamp()).unwrap_or(u64::MAX),
            until: u64::try_from(until.timestamp()).unwrap_or(0),
        }
    }
}

/// Why a chain is not accepted. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// No certificate was shown.
    #[error("no certificate was shown")]
    Missing,
    /// All certificates together are too long.
    #[error("the chain has {0} octets, more than {CERTIFICATE_CHAIN_SIZE_MAX}")]
    TooLong(usize),
    /// More certificates than a leaf and its bound of intermediates.
    #[error("the chain has {0} intermediates, more than {INTERMEDIATE_COUNT_MAX}")]
    TooManyIntermediates(usize),
    /// The leaf cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// A certificate of the chain is past its life.
    #[error("a certificate of the chain expired at {}", date(*since))]
    Expired {
        /// End of its life.
        since: u64,
    },
    /// A certificate of the chain is before its life.
    #[error("a certificate of the chain is not valid before {}", date(*until))]
    NotYetValid {
        /// Start of its life.
        until: u64,
    },
    /// Neither the client nor the site's trust has the certificate of this issuer.
    #[error("nobody trusted has the name of the issuer {issuer:?}; add its certificate to the site's trust")]
    UnknownIssuer {
        /// Distinguished name of the missing link.
        issuer: String,
    },
    /// A signature in the chain is not its issuer's.
    #[error("a signature in the chain is not that of the issuer it names")]
    BadSignature,
    /// Extended key usage lacks client authentication.
    #[error("the certificate (or one above it) is not meant for client authentication")]
    NotForClients,
    /// A CA's certificate in place of a client's.
    #[error("the certificate is that of an authority, not of a client")]
    Authority,
    /// A key of a kind or size that is not taken.
    #[error("{subject:?} has {found}; taken are RSA of 2048 to 4096 bits, ECDSA P-256 and P-384, Ed25519")]
    WeakKey {
        /// Owner of the key.
        subject: String,
        /// What it has.
        found: String,
    },
    /// On the site's block list.
    #[error("{subject:?} is blocked by {by}")]
    Blocked {
        /// Owner of the certificate; it need not be the leaf's.
        subject: String,
        /// How the list names it.
        by: String,
    },
    /// The site's rules of admission leave it out.
    #[error("the site lets in nobody with the {what} {found:?}")]
    NotAllowed {
        /// What the rule looks at.
        what: String,
        /// What the certificate says.
        found: String,
    },
    /// On a revocation list.
    #[error("{subject:?}, serial number {serial}, was revoked by {issuer:?}")]
    Revoked {
        /// Owner of the certificate; it need not be the leaf's.
        subject: String,
        /// Whose list it is.
        issuer: String,
        /// Hexadecimal digits.
        serial: String,
    },
    /// The list that would say so has passed.
    #[error("the revocation list of {issuer:?} ended at {}, and no newer one came", date(*since))]
    ListTooOld {
        /// Whose.
        issuer: String,
        /// End of its life, without the site's grace.
        since: u64,
    },
    /// Nobody has the list that would say so.
    #[error(
        "there is no revocation list of {issuer:?}; name it in the site's revocation.crls{}",
        not_by_ldap(unusable)
    )]
    NoList {
        /// Whose.
        issuer: String,
        /// Where the certificate says that one is found, by LDAP.
        unusable: Vec<String>,
    },
    /// Anything else that webpki finds.
    #[error("the chain is not valid: {0}")]
    Invalid(String),
}

impl CertificateFault {
    /// Whose list is not in force, whether it is named where nobody looks, and when that ended which was.
    pub fn unlisted(&self) -> Option<(&str, bool, Option<u64>)> {
        match self {
            CertificateFault::NoList { issuer, unusable } => Some((issuer, !unusable.is_empty(), None)),
            CertificateFault::ListTooOld { issuer, since } => Some((issuer, false, Some(*since))),
            _ => None,
        }
    }

    /// What the client is answered.
    pub const fn refusal(&self) -> Refusal {
        match self {
            CertificateFault::Missing => Refusal::ClientCertificateRequired,
            CertificateFault::TooLong(_)
            | CertificateFault::TooManyIntermediates(_)
            | CertificateFault::Malformed(_)
            | CertificateFault::Expired { .. }
            | CertificateFault::NotYetValid { .. }
            | CertificateFault::UnknownIssuer { .. }
            | CertificateFault::BadSignature
            | CertificateFault::NotForClients
            | CertificateFault::Authority
            | CertificateFault::WeakKey { .. }
            | CertificateFault::Blocked { .. }
            | CertificateFault::NotAllowed { .. }
            | CertificateFault::Revoked { .. }
            | CertificateFault::ListTooOld { .. }
            | CertificateFault::NoList { .. }
            | CertificateFault::Invalid(_) => Refusal::UntrustedCertificate,
        }
    }
}

/// Judges `chain` (DER, leaf first, as the client sent it) at `now`: bounds, signatures up to an
/// anchor, time, and fitness for client authentication.
///
/// # Errors
/// The reason why it is not accepted.
pub fn judge<D: AsRef<[u8]>>(
    chain: &[D],
    trust: &Trust,
    now: UnixTime,
) -> Result<CertificateFacts, CertificateFault> {
    let Some((leaf, sent)) = chain.split_first() else { return Err(CertificateFault::Missing) };
    let leaf = CertificateDer::from(leaf.as_ref());
    let size = chain.iter().map(|der| der.as_ref().len()).sum();
    if size > CERTIFICATE_CHAIN_SIZE_MAX {
        return Err(CertificateFault::TooLong(size));
    }
    if sent.len() > INTERMEDIATE_COUNT_MAX {
        return Err(CertificateFault::TooManyIntermediates(sent.len()));
    }
    let parsed = parse(&leaf).ok_or_else(|| CertificateFault::Malformed("not X.509".to_owned()))?;
    let end =
        EndEntityCert::try_from(&leaf).map_err(|error| CertificateFault::Malformed(error.to_string()))?;
    let mut between = one_of_each_name(sent);
    between.extend(trust.intermediates.iter().map(|der| CertificateDer::from(der.as_ref())));
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    let path = end
        .verify_for_usage(algorithms, &trust.anchors, &between, now, KeyUsage::client_auth(), None, None)
        .map_err(|error| fault(error, &leaf, &between, trust))?;
    let ders: Vec<_> = path.intermediate_certificates().map(|certificate| certificate.der()).collect();
    let above: Option<Vec<X509Certificate<'_>>> = ders.iter().map(|der| parse(der)).collect();
    let above = above.ok_or_else(|| CertificateFault::Malformed("not X.509".to_owned()))?;
    let valid = above.iter().map(Validity::of).fold(Validity::of(&parsed), Validity::and);
    let unrevoked = by_lists(&parsed, &above, trust.key_of_anchor(path.anchor()), trust, now)?;
    let valid = Validity { until: valid.until.min(unrevoked.until), ..valid };
    Ok(facts(&leaf, &parsed, valid, unrevoked.unchecked))
}

/// What the site's own lists and bounds say of a path that leads to its trust: `leaf`, those `above` it,
/// and the key of the anchor.
fn by_lists(
    leaf: &X509Certificate<'_>,
    above: &[X509Certificate<'_>],
    anchor_key: [u8; 32],
    trust: &Trust,
    now: UnixTime,
) -> Result<Unrevoked, CertificateFault> {
    let path = || std::iter::once(leaf).chain(above);
    for certificate in path() {
        if let Some(found) = odd_key(certificate) {
            return Err(CertificateFault::WeakKey { subject: name_text(certificate.subject()), found });
        }
        if let Some(blocked) = trust.blocked.find(certificate.as_raw(), certificate) {
            return Err(blocked);
        }
    }
    if trust.is_blocked_anchor(&anchor_key) {
        let subject = name_text(above.last().unwrap_or(leaf).issuer());
        return Err(CertificateFault::Blocked {
            subject,
            by: "the block list's line of this root".to_owned(),
        });
    }
    trust.allowed.judge(leaf)?;
    if !trust.looks_at_lists() {
        return Ok(Unrevoked { until: u64::MAX, unchecked: Vec::new() });
    }
    let keys = above.iter().map(|certificate| key_of(certificate)).chain(std::iter::once(anchor_key));
    let linked = path().zip(keys).map(|(certificate, issuer_key)| Linked { certificate, issuer_key });
    trust.revocation.look(&linked.collect::<Vec<_>>(), now.as_secs())
}

/// Whether somebody who was accepted before may have been blocked or revoked since: a look without a
/// signature. Who may have been is to be judged.
pub fn may_be_shut_out<D: AsRef<[u8]>>(chain: &[D], trust: &Trust) -> bool {
    trust.has_doubtful_authority
        || chain.iter().filter_map(|der| Some((der.as_ref(), parse(der.as_ref())?))).any(
            |(der, certificate)| {
                trust.blocked.find(der, &certificate).is_some()
                    || trust.revocation.may_have_revoked(&certificate)
            },
        )
}

/// What is wrong with the key of a certificate in DER, for a handshake whose signature could not be verified.
pub fn key_fault(der: &[u8]) -> Option<CertificateFault> {
    let certificate = parse(der)?;
    let found = odd_key(&certificate)?;
    Some(CertificateFault::WeakKey { subject: name_text(certificate.subject()), found })
}

/// What a key is that is not taken.
fn odd_key(certificate: &X509Certificate<'_>) -> Option<String> {
    odd_public_key(certificate.public_key())
}

/// What is wrong with a key that is not taken.
pub(super) fn odd_public_key(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let curve = || key.algorithm.parameters.as_ref()?.as_oid().ok().map(|oid| oid.to_id_string());
    match (key.parsed(), key.algorithm.algorithm.to_id_string().as_str()) {
        (Ok(PublicKey::RSA(rsa)), _) => {
            let zeros = rsa.modulus.iter().take_while(|octet| **octet == 0).count();
            let first = rsa.modulus.get(zeros).map_or(8, |octet| octet.leading_zeros() as usize);
            let bits = (rsa.modulus.len() - zeros) * 8 - if zeros == rsa.modulus.len() { 0 } else { first };
            (!RSA_BITS.contains(&bits)).then(|| format!("an RSA key of {bits} bits"))
        }
        (_, "1.3.101.112") => None,
        (_, "1.2.840.10045.2.1") => match curve().as_deref() {
            Some("1.2.840.10045.3.1.7" | "1.3.132.0.34") => None,
            other => Some(format!("an ECDSA key on the curve {}", other.unwrap_or("unknown"))),
        },
        (_, other) => Some(format!("a key of the kind {other}")),
    }
}

/// Smaller ones can be broken; larger ones cost a gateway more than the client.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Sent intermediates that can be read, of several with one name the first. A stranger who sends six
/// of one name makes webpki try them in every order; an honest client sends one chain.
fn one_of_each_name<D: AsRef<[u8]>>(sent: &[D]) -> Vec<CertificateDer<'_>> {
    let parsed = sent.iter().filter_map(|der| Some((der.as_ref(), parse(der.as_ref())?)));
    let mut kept: Vec<(&[u8], X509Certificate<'_>)> = Vec::new();
    for (der, certificate) in parsed {
        if !kept.iter().any(|(_, other)| other.subject().as_raw() == certificate.subject().as_raw()) {
            kept.push((der, certificate));
        }
    }
    kept.into_iter().map(|(der, _)| CertificateDer::from(der)).collect()
}

fn facts(
    der: &[u8],
    parsed: &X509Certificate<'_>,
    valid: Validity,
    unchecked: Vec<CertificateFault>,
) -> CertificateFacts {
    let serial = parsed.raw_serial().iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    });
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    CertificateFacts {
        subject: name_text(parsed.subject()),
        issuer: name_text(parsed.issuer()),
        serial,
        thumbprint: digest.as_ref().try_into().expect("SHA-256 has 32 octets"),
        valid,
        unchecked,
    }
}

fn fault(
    error: webpki::Error,
    leaf: &[u8],
    between: &[CertificateDer<'_>],
    trust: &Trust,
) -> CertificateFault {
    use webpki::Error;
    match error {
        Error::CertExpired { not_after, .. } => CertificateFault::Expired { since: not_after.as_secs() },
        Error::CertNotValidYet { not_before, .. } => {
            CertificateFault::NotYetValid { until: not_before.as_secs() }
        }
        Error::UnknownIssuer => match missing_issuer(leaf, between, trust) {
            Some(issuer) => CertificateFault::UnknownIssuer { issuer },
            None => CertificateFault::BadSignature,
        },
        Error::InvalidSignatureForPublicKey => CertificateFault::BadSignature,
        Error::RequiredEkuNotFoundContext(_) => CertificateFault::NotForClients,
        Error::CaUsedAsEndEntity => CertificateFault::Authority,
        other => CertificateFault::Invalid(other.to_string()),
    }
}

/// Follows issuers by name from the leaf up to the first that nobody has; `None` when all are there.
fn missing_issuer(leaf: &[u8], between: &[CertificateDer<'_>], trust: &Trust) -> Option<String> {
    let between: Vec<X509Certificate<'_>> = between.iter().filter_map(|der| parse(der)).collect();
    let mut current = parse(leaf)?;
    for _ in 0..=INTERMEDIATE_COUNT_MAX {
        let issuer = current.issuer();
        if trust.anchor_names.iter().any(|name| name == issuer.as_raw()) {
            return None;
        }
        let is_self_issued = issuer.as_raw() == current.subject().as_raw();
        match between.iter().find(|above| above.subject().as_raw() == issuer.as_raw()) {
            Some(above) if !is_self_issued => current = above.clone(),
            _ => return Some(name_text(issuer)),
        }
    }
    Some(name_text(current.issuer()))
}

/// The certificate, if `der` is one and nothing else.
pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der)
        .ok()
        .filter(|(rest, _)| rest.is_empty())
        .map(|(_, certificate)| certificate)
}

/// Distinguished name of a certificate in DER, whoever signed it: for logs alone.
pub fn subject_of(leaf: &[u8]) -> Option<String> {
    parse(leaf).map(|certificate| name_text(certificate.subject()))
}

/// That lists are not fetched from these, which a certificate names.
fn not_by_ldap(points: &[String]) -> String {
    match points {
        [] => String::new(),
        [first, ..] => {
            format!(
                " as a file or http URL: of {} ldap: points, as {first:?}, none can be used",
                points.len()
            )
        }
    }
}

/// A time as people write it.
pub(super) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("second {seconds}"), |time| time.to_string())
}

/// When a certificate lives, by its own dates; `None`: it cannot be read.
pub fn life_of(leaf: &[u8]) -> Option<Validity> {
    parse(leaf).map(|certificate| Validity::of(&certificate))
}

/// The public key of a certificate with the name of its algorithm, DER; `None`: it cannot be read.
pub fn public_key_of(leaf: &[u8]) -> Option<&[u8]> {
    parse(leaf).map(|certificate| certificate.tbs_certificate.subject_pki.raw)
}

/// Value of the `Client-Cert` field (RFC 9440 2.2) for a leaf in DER.
pub fn client_cert_field(leaf: &[u8]) -> String {
    format!(":{}:", BASE64.encode(leaf))
}

/// The certificate that the values of `Client-Cert` bring, DER. `None`: there is no such field.
///
/// # Errors
/// They are not one certificate, written as [`client_cert_field`] writes it.
pub fn client_cert_of<'v>(
    values: impl IntoIterator<Item = &'v [u8]>,
) -> Result<Option<Vec<u8>>, NoClientCert> {
    let mut values = values.into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    let inner = value.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b":"));
    let der = inner.and_then(|text| BASE64.decode(text).ok()).filter(|der| parse(der).is_some());
    der.filter(|_| values.next().is_none()).map(Some).ok_or(NoClientCert)
}

/// `Client-Cert` with something else than one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Client-Cert that is not one certificate (RFC 9440 2.2)")]
pub struct NoClientCert;
