//! A client's certificate chain, judged against the trust of one site.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::trust::Trust;
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
    /// When every certificate on the way to the anchor lives.
    pub valid: Validity,
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
    fn and(self, other: Validity) -> Validity {
        Validity { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// A time that cannot be told is never.
    fn of(certificate: &X509Certificate<'_>) -> Validity {
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
    /// Anything else that webpki finds.
    #[error("the chain is not valid: {0}")]
    Invalid(String),
}

impl CertificateFault {
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
    let valid = path
        .intermediate_certificates()
        .map(|certificate| parse(&certificate.der()).map_or(NEVER, |parsed| Validity::of(&parsed)))
        .fold(Validity::of(&parsed), Validity::and);
    Ok(facts(&leaf, &parsed, valid))
}

/// Of a certificate whose time cannot be told.
const NEVER: Validity = Validity { from: u64::MAX, until: 0 };

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

fn facts(der: &[u8], parsed: &X509Certificate<'_>, valid: Validity) -> CertificateFacts {
    let serial = parsed.raw_serial().iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    });
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    CertificateFacts {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial,
        thumbprint: digest.as_ref().try_into().expect("SHA-256 has 32 octets"),
        valid,
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
            _ => return Some(issuer.to_string()),
        }
    }
    Some(current.issuer().to_string())
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
    parse(leaf).map(|certificate| certificate.subject().to_string())
}

/// A time as people write it.
pub(super) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("second {seconds}"), |time| time.to_string())
}

/// Value of the `Client-Cert` field (RFC 9440 2.2) for a leaf in DER.
pub fn client_cert_field(leaf: &[u8]) -> String {
    format!(":{}:", BASE64.encode(leaf))
}
