//! One authority: its own certificate and key, what it signs, and whether what it signed is still good.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::auth::{is_name, is_site_code};

use super::files::{KEY_MODE, PUBLIC_MODE, write_file, write_file_quickly};
use super::{Pair, PkiError, gateway_tls_name};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An authority outlives all that it signs many times over; renewing one means visiting every client.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// Servers and clients: what browsers still accept of a server.
const PUBLIC_LIFE: Duration = Duration::from_secs(397 * DAY.as_secs());
/// Internal identities, which are renewed without anybody outside noticing.
const INTERNAL_LIFE: Duration = Duration::from_secs(90 * DAY.as_secs());
/// Clocks on the internet are late; a certificate is good from this long before it was made.
const EARLIER: Duration = DAY;

/// What a certificate below an authority says.
pub(super) struct Leaf {
    name: String,
    subjects: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
    life: Duration,
}

impl Leaf {
    pub(super) fn server(names: &[String], addresses: &[IpAddr]) -> Result<Leaf, PkiError> {
        let name = names.first().ok_or_else(|| PkiError::Name(String::new()))?;
        checked_name(name)?;
        let mut subjects = names.iter().map(|name| dns(name)).collect::<Result<Vec<_>, _>>()?;
        subjects.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        Ok(Leaf { name: name.clone(), subjects, usage, life: PUBLIC_LIFE })
    }

    pub(super) fn client(name: &str) -> Result<Leaf, PkiError> {
        let subjects = vec![dns(checked_name(name)?)?];
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Ok(Leaf { name: name.to_owned(), subjects, usage, life: PUBLIC_LIFE })
    }

    pub(super) fn gateway(name: &str) -> Result<Leaf, PkiError> {
        let uri = format!("cmg://gateway/{}", checked_name(name)?);
        let subjects = vec![SanType::URI(Ia5String::try_from(uri)?), dns(&gateway_tls_name(name))?];
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        Ok(Leaf { name: format!("gateway {name}"), subjects, usage, life: INTERNAL_LIFE })
    }

    pub(super) fn connector(site: &str, name: &str) -> Result<Leaf, PkiError> {
        let uri = format!("cmg://site/{}/connector/{}", checked_site(site)?, checked_name(name)?);
        let subjects = vec![SanType::URI(Ia5String::try_from(uri)?)];
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Ok(Leaf { name: format!("connector {name} of {site}"), subjects, usage, life: INTERNAL_LIFE })
    }

    fn params(&self, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&self.name);
        params.subject_alt_names.clone_from(&self.subjects);
        params.extended_key_usages = vec![self.usage.clone()];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, now, self.life);
        params
    }
}

/// Names become file names and parts of URIs and host names, so they must be plain in all of these.
fn checked_name(name: &str) -> Result<&str, PkiError> {
    if is_name(name) { Ok(name) } else { Err(PkiError::Name(name.to_owned())) }
}

fn checked_site(code: &str) -> Result<&str, PkiError> {
    if is_site_code(code) { Ok(code) } else { Err(PkiError::SiteCode(code.to_owned())) }
}

fn dns(name: &str) -> Result<SanType, PkiError> {
    Ok(SanType::DnsName(Ia5String::try_from(name)?))
}

fn named(name: &str) -> DistinguishedName {
    let mut whole = DistinguishedName::new();
    whole.push(DnType::CommonName, name);
    whole
}

fn set_life(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(now);
    params.not_before = now - EARLIER;
    params.not_after = now + life;
}

fn since_epoch(now: SystemTime) -> Duration {
    // Whole seconds: a certificate cannot say more.
    Duration::from_secs(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// An authority that can sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl Authority {
    /// Loads the authority, or makes it when neither of its files is there.
    pub(super) fn open(pair: &Pair, name: &str, now: SystemTime) -> Result<Authority, PkiError> {
        match (pair.certificate.exists(), pair.key.exists()) {
            (true, true) => {}
            (false, false) => Authority::make(pair, name, now)?,
            (true, false) => return Err(half(&pair.certificate, &pair.key)),
            (false, true) => return Err(half(&pair.key, &pair.certificate)),
        }
        Authority::load(pair)
    }

    fn make(pair: &Pair, name: &str, now: SystemTime) -> Result<(), PkiError> {
        let mut params = CertificateParams::default();
        // Two authorities of one name would be mixed up by those who trust both.
        let made = since_epoch(now).as_secs();
        params.distinguished_name = named(&format!("{name} {made:x}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, now, AUTHORITY_LIFE);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        files(pair, &key, &certificate, write_file)
    }

    fn load(pair: &Pair) -> Result<Authority, PkiError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
        };
        let unusable = |path: &Path, reason: String| PkiError::Unusable { path: path.to_owned(), reason };
        let key =
            KeyPair::from_pem(&read(&pair.key)?).map_err(|error| unusable(&pair.key, error.to_string()))?;
        let text = read(&pair.certificate)?;
        let der = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|error| unusable(&pair.certificate, error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| unusable(&pair.certificate, error.to_string()))?;
        Ok(Authority { issuer, der })
    }

    /// Makes a key and signs a certificate for it.
    pub(super) fn issue(&self, pair: &Pair, leaf: &Leaf, now: SystemTime) -> Result<(), PkiError> {
        let key = KeyPair::generate()?;
        let certificate = leaf.params(now).signed_by(&key, &self.issuer)?;
        files(pair, &key, &certificate, write_file_quickly)
    }

    /// Whether the pair is complete, ours, young enough and says what the leaf says.
    pub(super) fn is_current(&self, pair: &Pair, leaf: &Leaf, now: SystemTime) -> bool {
        let Ok(der) = CertificateDer::from_pem_file(&pair.certificate) else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
        let Ok((_, authority)) = X509Certificate::from_der(&self.der) else { return false };
        pair.key.exists()
            && certificate.issuer().as_raw() == authority.subject().as_raw()
            && is_young(&certificate, now)
            && leaf.subjects.iter().all(|subject| has_subject(&certificate, subject))
    }
}

/// In the first two thirds of its life: the last third is for renewing in peace.
fn is_young(certificate: &X509Certificate<'_>, now: SystemTime) -> bool {
    let now = i64::try_from(since_epoch(now).as_secs()).unwrap_or(i64::MAX);
    let (begin, end) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    begin <= now && now < end.saturating_sub(end.saturating_sub(begin) / 3)
}

fn has_subject(certificate: &X509Certificate<'_>, subject: &SanType) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| match (name, subject) {
        (GeneralName::DNSName(found), SanType::DnsName(wanted)) => *found == wanted.as_str(),
        (GeneralName::URI(found), SanType::URI(wanted)) => *found == wanted.as_str(),
        (GeneralName::IPAddress(found), SanType::IpAddress(IpAddr::V4(wanted))) => **found == wanted.octets(),
        (GeneralName::IPAddress(found), SanType::IpAddress(IpAddr::V6(wanted))) => **found == wanted.octets(),
        _ => false,
    })
}

fn half(present: &Path, missing: &Path) -> PkiError {
    PkiError::HalfAuthority { present: present.to_owned(), missing: missing.to_owned() }
}

type Write = fn(&Path, &[u8], u32) -> Result<(), PkiError>;

/// The old certificate goes first and the new one comes last: whatever interrupts this leaves a pair
/// that is incomplete, never one whose halves do not belong together.
fn files(pair: &Pair, key: &KeyPair, certificate: &rcgen::Certificate, write: Write) -> Result<(), PkiError> {
    match fs::remove_file(&pair.certificate) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(PkiError::File { path: pair.certificate.clone(), source });
        }
        _ => {}
    }
    write(&pair.key, key.serialize_pem().as_bytes(), KEY_MODE)?;
    write(&pair.certificate, certificate.pem().as_bytes(), PUBLIC_MODE)
}
