//! One revocation list (CRL, RFC 5280 section 5), read and verified.
//!
//! A list is believed when an authority of the site's trust has signed it. What it speaks of is kept as
//! sorted serial numbers, 20 octets each, however many there are. Lists that speak for other authorities
//! (indirect), for some reasons alone or for attribute certificates are refused: they would leave gaps.
//! How several lists are put together is the business of `revocation.rs`.

use std::borrow::Cow;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::{
    DistributionPointName, GeneralName, IssuingDistributionPoint, ParsedExtension,
};
use x509_parser::prelude::{FromDer as _, X509Extension};
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use super::name::name_text;
use super::trust::{Authority, Trust};
use crate::limits::{CLOCK_SKEW, CRL_COUNT_MAX, CRL_SIZE_MAX};

/// A serial number, or the number of a list: zeros in front.
pub(super) type Number = [u8; 20];

/// What a list says of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// Name of the authority, in DER.
    pub(super) issuer: Vec<u8>,
    /// SHA-256 of the authority's public key.
    pub(super) key: [u8; 32],
    /// Which certificates it speaks of.
    pub(super) scope: Scope,
    /// Where it is a delta: the number of the complete list it goes with, or a later one.
    pub(super) base: Option<Number>,
    pub(super) number: Number,
    pub(super) revoked: Box<[Number]>,
    /// Those that a delta takes off the list again.
    pub(super) removed: Box<[Number]>,
    /// Name of the authority, as text.
    pub issuer_text: String,
    /// Seconds since 1970.
    pub this_update: u64,
    /// Seconds since 1970: the next list comes until then.
    pub next_update: u64,
    /// SHA-256 of the list.
    pub sha256: [u8; 32],
}

/// Which certificates of an authority a list speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// Not of authorities.
    pub users_alone: bool,
    /// Not of others.
    pub authorities_alone: bool,
    /// Of those alone that name one of these distribution points; none: of all.
    pub points: Vec<String>,
}

/// Why a list is not taken. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListFault {
    /// Longer than a list of its kind may be.
    #[error("the list has {size} octets, more than {size_max}")]
    TooLong {
        /// Its octets.
        size: usize,
        /// The most that it may have.
        size_max: usize,
    },
    /// Not a list in DER.
    #[error("the list cannot be read: {0}")]
    Malformed(&'static str),
    /// The site's trust has no authority of this name.
    #[error(
        "the list is that of {0:?}, whom the site does not know; its certificate belongs into trust.roots or trust.intermediates"
    )]
    UnknownIssuer(String),
    /// None of that name has signed it.
    #[error("the signature of the list is not that of {0:?}, or the authority may not sign lists")]
    BadSignature(String),
    /// Without a number nobody can tell which of two is newer.
    #[error("the list of {0:?} has no number, or one of more than 20 octets")]
    NoNumber(String),
    /// Without it the list would be good for ever.
    #[error("the list of {0:?} does not say when the next one comes")]
    NoNextUpdate(String),
    /// It speaks of what we cannot judge by.
    #[error("the list of {issuer:?} {what}")]
    Unusable {
        /// Whose.
        issuer: String,
        /// In which way.
        what: &'static str,
    },
    /// It begins in the future.
    #[error("the list of {issuer:?} begins only at {}", super::certificate::date(*at))]
    Future {
        /// Whose.
        issuer: String,
        /// When.
        at: u64,
    },
    /// A higher number is known.
    #[error("the list of {issuer:?} has number {offered}, older than {held}, which is held")]
    Older {
        /// Whose.
        issuer: String,
        /// Its number, hexadecimal.
        offered: String,
        /// The number of the one that stays.
        held: String,
    },
    /// Two lists with one number.
    #[error("the list of {issuer:?} has number {number}, as another one that is held")]
    Diverged {
        /// Whose.
        issuer: String,
        /// Hexadecimal.
        number: String,
    },
    /// A delta says what changed since a complete list; without that it says too little, and would take the
    /// place of one that says more.
    #[error("the delta of {issuer:?} is for the complete list {needs} or a later one, which is not held")]
    NoBase {
        /// Whose.
        issuer: String,
        /// Hexadecimal.
        needs: String,
    },
    /// As many as a site may have.
    #[error("more lists than {0}")]
    TooMany(usize),
}

impl RevocationList {
    /// Reads a list in DER, whose authority must be in `trust`; `now` in seconds since 1970.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn read(der: &[u8], trust: &Trust, now: u64) -> Result<RevocationList, ListFault> {
        if der.len() > CRL_SIZE_MAX {
            return Err(ListFault::TooLong { size: der.len(), size_max: CRL_SIZE_MAX });
        }
        let list = parse(der)?;
        let issuer = name_text(list.issuer());
        let key = signer(&list, trust, &issuer)?.key;
        RevocationList::of(&list, key, issuer, der, now)
    }

    /// What `list`, which is `der`, says; whoever signed it.
    pub(super) fn of(
        list: &CertificateRevocationList<'_>,
        key: [u8; 32],
        issuer: String,
        der: &[u8],
        now: u64,
    ) -> Result<RevocationList, ListFault> {
        let facts = Extensions::read(list.extensions(), &issuer)?;
        let number = facts.number.ok_or_else(|| ListFault::NoNumber(issuer.clone()))?;
        let this_update = u64::try_from(list.last_update().timestamp()).unwrap_or(0);
        if this_update > now.saturating_add(CLOCK_SKEW.as_secs()) {
            return Err(ListFault::Future { issuer, at: this_update });
        }
        let next_update = list.next_update().and_then(|time| u64::try_from(time.timestamp()).ok());
        let next_update = next_update.ok_or_else(|| ListFault::NoNextUpdate(issuer.clone()))?;
        let (revoked, removed) = entries(list, &issuer)?;
        let sha256 = ring::digest::digest(&ring::digest::SHA256, der);
        Ok(RevocationList {
            issuer: list.issuer().as_raw().to_vec(),
            key,
            scope: facts.scope,
            base: facts.base,
            number,
            revoked,
            removed,
            issuer_text: issuer,
            this_update,
            next_update,
            sha256: sha256.as_ref().try_into().expect("SHA-256 has 32 octets"),
        })
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// It says what changed since a complete one.
    pub fn is_delta(&self) -> bool {
        self.base.is_some()
    }

    /// Its number, hexadecimal digits.
    pub fn number_text(&self) -> String {
        digits(&self.number)
    }

    /// Percent of its life that is over at `now`; more than 100 behind its end.
    pub fn life_percent(&self, now: u64) -> u64 {
        let life = self.next_update.saturating_sub(self.this_update).max(1);
        now.saturating_sub(self.this_update).saturating_mul(100) / life
    }

    /// Where the newest of the lists of this authority, scope and kind is kept.
    pub fn place(&self) -> String {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        hash.update(&self.key);
        hash.update(&self.issuer);
        hash.update(&[
            u8::from(self.is_delta()),
            u8::from(self.scope.users_alone),
            u8::from(self.scope.authorities_alone),
        ]);
        for point in &self.scope.points {
            hash.update(point.as_bytes());
            hash.update(&[0]);
        }
        hash.finish().as_ref()[..16].iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// It is about the same certificates as `other`, in the same way.
    pub(super) fn stands_for(&self, other: &RevocationList) -> bool {
        self.is_about_those_of(other) && self.is_delta() == other.is_delta()
    }

    /// It is about the same certificates as `other`.
    pub(super) fn is_about_those_of(&self, other: &RevocationList) -> bool {
        self.issuer == other.issuer && self.key == other.key && self.scope == other.scope
    }

    pub(super) fn names(&self, serial: &Number) -> bool {
        self.revoked.binary_search(serial).is_ok()
    }

    pub(super) fn takes_off(&self, serial: &Number) -> bool {
        self.removed.binary_search(serial).is_ok()
    }
}

/// The list, if `der` is one and nothing else.
pub(super) fn parse(der: &[u8]) -> Result<CertificateRevocationList<'_>, ListFault> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => Ok(list),
        Ok(_) => Err(ListFault::Malformed("something follows it")),
        Err(_) => Err(ListFault::Malformed("no list in DER")),
    }
}

/// A list in DER, from a file in DER or PEM.
///
/// # Errors
/// PEM without a list in it.
pub fn list_der(bytes: &[u8]) -> Result<Cow<'_, [u8]>, ListFault> {
    if !bytes.windows(BEGIN.len()).take(PEM_BEGINS_WITHIN).any(|some| some == BEGIN) {
        return Ok(Cow::Borrowed(bytes));
    }
    let list = CertificateRevocationListDer::from_pem_slice(bytes);
    let list = list.map_err(|_| ListFault::Malformed("no revocation list in PEM"))?;
    Ok(Cow::Owned(list.to_vec()))
}

/// The lists of a file in PEM or of several in DER one behind the other, each in DER.
///
/// # Errors
/// PEM without a list in it, or octets that are no list; more lists than a site may have.
pub fn lists_der(bytes: &[u8]) -> Result<Vec<Vec<u8>>, ListFault> {
    let lists: Vec<Vec<u8>> = if bytes.windows(BEGIN.len()).take(PEM_BEGINS_WITHIN).any(|some| some == BEGIN)
    {
        let sections = CertificateRevocationListDer::pem_slice_iter(bytes).take(CRL_COUNT_MAX + 1);
        let sections: Result<Vec<_>, _> = sections.map(|list| list.map(|list| list.to_vec())).collect();
        sections.map_err(|_| ListFault::Malformed("no revocation list in PEM"))?
    } else {
        let (mut lists, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() && lists.len() <= CRL_COUNT_MAX {
            let (behind, _) = CertificateRevocationList::from_der(rest)
                .map_err(|_| ListFault::Malformed("no list in DER"))?;
            lists.push(rest[..rest.len() - behind.len()].to_vec());
            rest = behind;
        }
        lists
    };
    match lists.len() {
        0 => Err(ListFault::Malformed("no revocation list in it")),
        count if count > CRL_COUNT_MAX => Err(ListFault::TooMany(CRL_COUNT_MAX)),
        _ => Ok(lists),
    }
}

const BEGIN: &[u8] = b"-----BEGIN ";
/// Some tools write a list in words before it.
const PEM_BEGINS_WITHIN: usize = 64 * 1024;

/// The authority of `trust` that signed the list, and may.
fn signer<'t>(
    list: &CertificateRevocationList<'_>,
    trust: &'t Trust,
    issuer: &str,
) -> Result<&'t Authority, ListFault> {
    let mut named = trust.authorities.iter().filter(|one| one.subject == list.issuer().as_raw()).peekable();
    if named.peek().is_none() {
        return Err(ListFault::UnknownIssuer(issuer.to_owned()));
    }
    let (message, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
    named
        .find(|one| one.may_sign_lists && one.has_signed(message, signature))
        .ok_or_else(|| ListFault::BadSignature(issuer.to_owned()))
}

/// What the extensions of a list say.
#[derive(Default)]
struct Extensions {
    number: Option<Number>,
    base: Option<Number>,
    scope: Scope,
}

impl Extensions {
    fn read(extensions: &[X509Extension<'_>], issuer: &str) -> Result<Extensions, ListFault> {
        let mut found = Extensions::default();
        let unusable = |what| ListFault::Unusable { issuer: issuer.to_owned(), what };
        for extension in extensions {
            match (extension.parsed_extension(), extension.oid.to_id_string().as_str()) {
                (ParsedExtension::CRLNumber(number), _) => found.number = number_of(&number.to_bytes_be()),
                (ParsedExtension::IssuingDistributionPoint(point), _) => {
                    found.scope = scope(point).map_err(unusable)?;
                }
                (_, DELTA_INDICATOR) => {
                    let base = integer(extension.value).ok_or_else(|| unusable(BAD_DELTA))?;
                    found.base = Some(base);
                }
                _ if extension.critical => {
                    return Err(unusable("has a critical extension that we do not know"));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

const DELTA_INDICATOR: &str = "2.5.29.27";
const BAD_DELTA: &str = "is a delta whose base cannot be read";

fn scope(point: &IssuingDistributionPoint<'_>) -> Result<Scope, &'static str> {
    if point.indirect_crl {
        return Err("is indirect: it speaks for other authorities");
    }
    if point.only_some_reasons.is_some() {
        return Err("speaks of some reasons alone");
    }
    if point.only_contains_attribute_certs {
        return Err("speaks of attribute certificates");
    }
    let points = match &point.distribution_point {
        None => Vec::new(),
        Some(name) => uris(name).ok_or("has a distribution point without an URI")?,
    };
    let (users_alone, authorities_alone) = (point.only_contains_user_certs, point.only_contains_ca_certs);
    Ok(Scope { users_alone, authorities_alone, points })
}

/// The URIs of a distribution point; `None` where there are none.
pub(super) fn uris(name: &DistributionPointName<'_>) -> Option<Vec<String>> {
    let DistributionPointName::FullName(names) = name else { return None };
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let uris: Vec<_> = uris.collect();
    (!uris.is_empty()).then_some(uris)
}

type Entries = (Box<[Number]>, Box<[Number]>);

/// Serial numbers that are revoked, and that a delta takes off; both sorted.
fn entries(list: &CertificateRevocationList<'_>, issuer: &str) -> Result<Entries, ListFault> {
    let unusable = |what| ListFault::Unusable { issuer: issuer.to_owned(), what };
    let (mut revoked, mut removed) = (Vec::new(), Vec::new());
    for entry in list.iter_revoked_certificates() {
        let serial = number_of(entry.raw_serial())
            .ok_or_else(|| unusable("names a serial number of more than 20 octets"))?;
        match reason(entry).map_err(unusable)? {
            REMOVE_FROM_LIST => removed.push(serial),
            _ => revoked.push(serial),
        }
    }
    revoked.sort_unstable();
    removed.sort_unstable();
    Ok((revoked.into(), removed.into()))
}

/// The reason of an entry; 0 where it says none.
fn reason(entry: &RevokedCertificate<'_>) -> Result<u8, &'static str> {
    for extension in entry.extensions() {
        let is_known = matches!(
            extension.parsed_extension(),
            ParsedExtension::ReasonCode(_) | ParsedExtension::InvalidityDate(_)
        );
        if extension.critical && !is_known {
            return Err("has an entry with a critical extension, as indirect lists have");
        }
    }
    Ok(entry.reason_code().map_or(0, |(_, code)| code.0))
}

/// `removeFromCRL`: only in deltas.
const REMOVE_FROM_LIST: u8 = 8;

/// A whole number without its sign; `None` when it has more than 20 octets.
pub(super) fn number_of(octets: &[u8]) -> Option<Number> {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    let octets = &octets[zeros..];
    let mut number = Number::default();
    let at = number.len().checked_sub(octets.len())?;
    number[at..].copy_from_slice(octets);
    Some(number)
}

/// An INTEGER in DER.
fn integer(der: &[u8]) -> Option<Number> {
    match der {
        [2, length, octets @ ..] if usize::from(*length) == octets.len() && *length > 0 => number_of(octets),
        _ => None,
    }
}

pub(super) fn digits(number: &Number) -> String {
    let text: String = number.iter().map(|octet| format!("{octet:02x}")).collect();
    match text.trim_start_matches('0') {
        "" => "0".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_what_stands_behind_its_zeros() {
        assert_eq!(number_of(&[0; 25]), Some([0; 20]));
        assert_eq!(number_of(&[0, 1, 2]).map(|number| digits(&number)).as_deref(), Some("102"));
        assert_eq!(number_of(&[1; 21]), None);
        assert!(number_of(&[2]) < number_of(&[1, 0]));
    }

    #[test]
    fn only_an_integer_is_one() {
        assert_eq!(integer(&[2, 1, 7]), number_of(&[7]));
        for der in [&[][..], &[2], &[2, 0], &[2, 2, 7], &[2, 1, 7, 0], &[4, 1, 7], &[2, 21]] {
            assert_eq!(integer(der), None, "{der:?}");
        }
    }
}
