//! One authority: its own certificate and key, what it signs, and whether what it signed is still good.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::auth::{InternalRole, Renewable, is_name, is_site_code};

use super::files::{KEY_MODE, PUBLIC_MODE, write_file, write_file_quickly};
use super::key::KeyKind;
use super::revoked::{Register, Serial};
use super::{AuthorityKind, ISSUER_TLS_NAME, Pair, PkiError, Terms, gateway_tls_name};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An authority outlives all that it signs many times over; renewing one means visiting every client.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// Servers and clients: what browsers still accept of a server.
const PUBLIC_LIFE: Duration = Duration::from_secs(397 * DAY.as_secs());
/// Internal identities, which are renewed without anybody outside noticing.
const INTERNAL_LIFE: Duration = Duration::from_secs(90 * DAY.as_secs());
/// Clocks on the internet are late; a certificate or an internal list is good from this long before it was made, but for
/// an eighth of its life at most: two thirds of it must not be over when it begins.
const EARLIER: Duration = DAY;
const EARLIER_PART: u32 = 8;

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
        // Others may be wildcards: they name no file.
        names.iter().try_for_each(|name| {
            checked_name(name.strip_prefix("*.").unwrap_or(name))
                .map(drop)
                .map_err(|_| PkiError::Name(name.clone()))
        })?;
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

    /// What takes the place of a certificate that was judged, with the names that it has.
    pub(super) fn renewed(renewable: &Renewable) -> Result<Leaf, PkiError> {
        let mut leaf = match (&renewable.name.role, &renewable.name.site) {
            (InternalRole::Connector, Some(site)) => Leaf::connector(site, &renewable.name.name)?,
            _ => Leaf::gateway(&renewable.name.name)?,
        };
        leaf.subjects.retain(|subject| matches!(subject, SanType::URI(_)));
        for name in &renewable.names {
            leaf.subjects.push(dns(name)?);
        }
        Ok(leaf)
    }

    /// What an issuer shows: it is no role on a channel.
    pub(super) fn issuer() -> Result<Leaf, PkiError> {
        let (subjects, usage) = (vec![dns(ISSUER_TLS_NAME)?], ExtendedKeyUsagePurpose::ServerAuth);
        Ok(Leaf { name: "issuer".to_owned(), subjects, usage, life: INTERNAL_LIFE })
    }

    fn params(&self, life: Duration, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&self.name);
        params.subject_alt_names.clone_from(&self.subjects);
        params.extended_key_usages = vec![self.usage.clone()];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, now, life);
        params
    }
}

/// At random, so that no authority gives one twice (RFC 5280 4.1.2.2), also to one key: 126 bits in 16 octets, of which
/// the first is above zero and makes no negative number.
fn serial_number() -> Result<SerialNumber, PkiError> {
    let mut octets = [0; 16];
    SystemRandom::new().fill(&mut octets).map_err(|_| rcgen::Error::RingUnspecified)?;
    octets[0] = octets[0] & 0x3f | 0x40;
    Ok(SerialNumber::from(octets.to_vec()))
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
    params.not_before = begin(now, life);
    params.not_after = date(now) + life;
}

/// When what is made `now` for that `life` begins, so that a clock that is late takes it.
pub(super) fn begin(now: SystemTime, life: Duration) -> OffsetDateTime {
    date(now) - Duration::from_secs(EARLIER.min(life / EARLIER_PART).as_secs())
}

/// The same moment as certificates and lists write it.
pub(super) fn date(moment: SystemTime) -> OffsetDateTime {
    rcgen::date_time_ymd(1970, 1, 1) + since_epoch(moment)
}

fn since_epoch(now: SystemTime) -> Duration {
    // Whole seconds: a certificate cannot say more.
    Duration::from_secs(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// An authority that can sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    /// Serial numbers of what it no longer stands for.
    revoked: HashSet<Serial>,
}

impl Authority {
    /// Loads the authority, or makes it when neither of its files is there. A key that has signed nothing
    /// yet and lacks its certificate is what an interrupted beginning leaves: it is used.
    pub(super) fn open(
        folder: &Path,
        kind: AuthorityKind,
        terms: Terms,
        register: &Register,
        now: SystemTime,
    ) -> Result<Authority, PkiError> {
        let pair = Pair::new(folder, kind.stem());
        match (pair.certificate.exists(), pair.key.exists()) {
            (true, true) => {}
            (false, false) => Authority::make(&pair, kind, terms, now)?,
            (true, false) => return Err(half(&pair.certificate, &pair.key)),
            (false, true) if has_signed(folder, kind) => return Err(half(&pair.key, &pair.certificate)),
            (false, true) => Authority::complete(&pair, kind, terms, now)?,
        }
        let revoked = register.revoked.iter().filter(|one| one.authority == kind);
        let revoked = revoked.map(|one| one.serial.clone()).collect();
        let authority = Authority::load(&pair, revoked)?;
        match (terms.key, authority.key_kind()) {
            (Some(wanted), found) if found != Some(wanted) => {
                Err(PkiError::OtherKey { path: pair.certificate, wanted, found })
            }
            _ => Ok(authority),
        }
    }

    fn make(pair: &Pair, kind: AuthorityKind, terms: Terms, now: SystemTime) -> Result<(), PkiError> {
        let key = terms.key.unwrap_or_default().make()?;
        let certificate = Authority::params(kind, terms, now).self_signed(&key)?;
        files(pair, &key, &certificate, write_file)
    }

    fn complete(pair: &Pair, kind: AuthorityKind, terms: Terms, now: SystemTime) -> Result<(), PkiError> {
        let certificate = Authority::params(kind, terms, now).self_signed(&read_key(&pair.key)?)?;
        write_file(&pair.certificate, certificate.pem().as_bytes(), PUBLIC_MODE)
    }

    fn params(kind: AuthorityKind, terms: Terms, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        // Two authorities of one name would be mixed up by those who trust both.
        let made = since_epoch(now).as_secs();
        params.distinguished_name = named(&format!("cmg {} CA {made:x}", kind.as_str()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, now, terms.life.unwrap_or(AUTHORITY_LIFE));
        params
    }

    fn load(pair: &Pair, revoked: HashSet<Serial>) -> Result<Authority, PkiError> {
        let key = read_key(&pair.key)?;
        let text = read(&pair.certificate)?;
        let wrong = |reason: String| unusable(&pair.certificate, reason);
        let der =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| wrong(format!("no certificate: {error}")))?;
        if *certificate.public_key().subject_public_key.data != *rcgen::PublicKeyData::der_bytes(&key) {
            return Err(wrong(format!("its key is not the one in {}", pair.key.display())));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| wrong(error.to_string()))?;
        Ok(Authority { issuer, der, revoked })
    }

    /// Makes a key and signs a certificate for it.
    pub(super) fn issue(
        &self,
        pair: &Pair,
        leaf: &Leaf,
        terms: Terms,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let key = terms.key.unwrap_or_default().make()?;
        let certificate = self.sign(leaf, &key, terms, now)?;
        files(pair, &key, &certificate, write_file_quickly)?;
        Ok(certificate.der().clone())
    }

    /// Signs a certificate for a key, whoever has it.
    pub(super) fn sign(
        &self,
        leaf: &Leaf,
        key: &impl PublicKeyData,
        terms: Terms,
        now: SystemTime,
    ) -> Result<rcgen::Certificate, PkiError> {
        // Nobody believes it longer than its authority. When it begins follows from that, too, for both say when the
        // next one is due: not at once, however little is left.
        let left = Duration::try_from(self.not_after() - date(now)).unwrap_or_default();
        let mut params = leaf.params(terms.life.unwrap_or(leaf.life).min(left), now);
        params.serial_number = Some(serial_number()?);
        Ok(params.signed_by(key, &self.issuer)?)
    }

    /// Its certificate.
    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whether the pair is complete, ours, young enough, not revoked and says what the leaf says; with a
    /// key of the kind that was asked for.
    pub(super) fn is_current(&self, pair: &Pair, leaf: &Leaf, terms: Terms, now: SystemTime) -> bool {
        let Ok(der) = CertificateDer::from_pem_file(&pair.certificate) else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
        pair.key.exists()
            && self.has_signed(&certificate)
            && is_young(&certificate, now)
            && !self.revoked.contains(&Serial::of(certificate.raw_serial()))
            && terms.key.is_none_or(|wanted| KeyKind::of(&certificate) == Some(wanted))
            && leaf.subjects.iter().all(|subject| has_subject(&certificate, subject))
    }

    /// Whether a certificate names this authority, and where both say so its key, as what it comes from:
    /// authorities of two folders made in one second bear the same name.
    pub(super) fn has_signed(&self, certificate: &X509Certificate<'_>) -> bool {
        self.certificate().is_some_and(|own| {
            let keys = issuing_key(certificate).zip(own_key(&own));
            certificate.issuer().as_raw() == own.subject().as_raw()
                && keys.is_none_or(|(issuing, own)| issuing == own)
        })
    }

    /// From now on nothing with this serial number is current.
    pub(super) fn disown(&mut self, serial: Serial) {
        self.revoked.insert(serial);
    }

    /// Signs a revocation list, with its begin and its end.
    pub(super) fn sign_list(
        &self,
        entries: Vec<RevokedCertParams>,
        number: u64,
        [begin, end]: [OffsetDateTime; 2],
    ) -> Result<CertificateRevocationList, PkiError> {
        let params = CertificateRevocationListParams {
            this_update: begin,
            next_update: end,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: self.key_identifier(),
        };
        Ok(params.signed_by(&self.issuer)?)
    }

    /// How its certificate names its key: the list must name it so too.
    fn key_identifier(&self) -> KeyIdMethod {
        let identifier = self.certificate().and_then(|own| {
            own.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
                _ => None,
            })
        });
        identifier.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
    }

    fn key_kind(&self) -> Option<KeyKind> {
        self.certificate().as_ref().and_then(KeyKind::of)
    }

    fn not_after(&self) -> OffsetDateTime {
        let seconds = self.certificate().map_or(0, |own| own.validity().not_after.timestamp());
        date(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    fn certificate(&self) -> Option<X509Certificate<'_>> {
        X509Certificate::from_der(&self.der).ok().map(|(_, certificate)| certificate)
    }
}

/// Which key a certificate says it was signed with (RFC 5280 4.2.1.1).
fn issuing_key<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    })
}

/// Which key an authority says it has (RFC 5280 4.2.1.2).
fn own_key<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(found) => Some(found.0),
        _ => None,
    })
}

/// Whether there is anything in the folder that an authority may have signed.
fn has_signed(folder: &Path, kind: AuthorityKind) -> bool {
    let names: &[&str] = match kind {
        AuthorityKind::Site => &["server", "clients"],
        AuthorityKind::Internal => &["internal"],
    };
    let is_empty =
        |name: &&str| fs::read_dir(folder.join(name)).map_or(true, |mut entries| entries.next().is_none());
    !names.iter().all(is_empty)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

fn read_key(path: &Path) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(&read(path)?).map_err(|error| unusable(path, error.to_string()))
}

fn unusable(path: &Path, reason: String) -> PkiError {
    PkiError::Unusable { path: path.to_owned(), reason }
}

/// In the first two thirds of its life: the last third is for renewing in peace.
pub(super) fn is_young(certificate: &X509Certificate<'_>, now: SystemTime) -> bool {
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
