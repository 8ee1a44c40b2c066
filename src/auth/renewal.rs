//! A role asks for its next internal certificate, and an issuer judges what it asks.
//!
//! Who asks proves two things: by a signature with the key of its certificate that it is who that says, and by one
//! with the new key that it has that. So whoever carries the words, a connection point for a gateway, can have
//! nothing made for itself. What is asked for beyond a key is looked at only to see that it is the same as before.
//!
//! ```text
//! version u8 = 1 │ when made u64 │ chain │ request length u16 │ PKCS#10 request │ signature, to the end
//! chain: count u8, 1 to 4 │ of each: length u16 │ certificate           (DER, leaf first)
//! ```
//! The signature is over [`CONTEXT`] and everything before it. Times are seconds since 1970. The answer is a chain.

use std::collections::BTreeSet;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::certificate::{may_be_shut_out, odd_public_key, parse};
use super::internal::{InternalFault, InternalName, InternalRole, internal_identity};
use super::trust::Trust;
use crate::limits::{
    RENEWAL_CHAIN_MAX, RENEWAL_NAMES_MAX, RENEWAL_SIZE_MAX, RENEWAL_WITHIN, RENEWED_SIZE_MAX,
};

/// What is signed begins so: a signature made for something else is none for this.
pub const CONTEXT: &[u8] = b"cmg internal renewal 1\0";
const VERSION: u8 = 1;

/// What is asked, as it was read; nothing of it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal<'b> {
    /// When it was made.
    pub made: u64,
    /// The certificate that its holder has now, and those above it.
    pub chain: Vec<&'b [u8]>,
    /// PKCS#10.
    pub request: &'b [u8],
    signed: &'b [u8],
    signature: &'b [u8],
}

/// What may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewable {
    /// For whom.
    pub name: InternalName,
    /// DNS names that it has, and is to have.
    pub names: Vec<String>,
    /// The new key, as SubjectPublicKeyInfo in DER.
    pub key: Vec<u8>,
    /// Serial number of the certificate that it has.
    pub serial: Vec<u8>,
}

/// Why nothing is made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewalFault {
    /// Not spelt as it should be.
    #[error("it cannot be read: {0}")]
    Malformed(&'static str),
    /// Long ago, or yet to come.
    #[error("it was made at {made}, which is not within {} s of {now}, now; are the clocks right?", RENEWAL_WITHIN.as_secs())]
    Untimely {
        /// When it says.
        made: u64,
        /// When it is.
        now: u64,
    },
    /// The chain does not lead to the internal authority, or has passed.
    #[error("its certificate is none of the internal authority that is good now: {0}")]
    Untrusted(String),
    /// On the list.
    #[error("its certificate is revoked")]
    Revoked,
    /// The certificate names no role.
    #[error("{0}")]
    Nobody(#[from] InternalFault),
    /// Not by the key of the certificate.
    #[error("the signature is not by the key of its certificate")]
    BadSignature,
    /// Not by the key that it asks for.
    #[error("the request is not signed by the key in it")]
    NotProven,
    /// A key that is not taken.
    #[error("the new key is {0}; taken are ECDSA P-256 and P-384, and RSA of 2048 to 4096 bits")]
    OddKey(String),
    /// The key that it has.
    #[error("the new key is the old one")]
    SameKey,
    /// Names that it does not have now.
    #[error("the request does not name what the certificate names, and nothing else")]
    OtherNames,
}

impl Renewal<'_> {
    /// What is to be signed: `chain` in DER, leaf first, and a PKCS#10 request. `None`: too long.
    pub fn unsigned<D: AsRef<[u8]>>(made: u64, chain: &[D], request: &[u8]) -> Option<Vec<u8>> {
        let mut out = CONTEXT.to_vec();
        out.push(VERSION);
        out.extend_from_slice(&made.to_be_bytes());
        put_chain(&mut out, chain)?;
        put_der(&mut out, request)?;
        Some(out)
    }

    /// What is sent: what was signed, and the signature. `None`: too long.
    pub fn signed(unsigned: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
        let bytes = [unsigned.strip_prefix(CONTEXT)?, signature].concat();
        (bytes.len() <= RENEWAL_SIZE_MAX && !signature.is_empty()).then_some(bytes)
    }

    /// Reads it.
    ///
    /// # Errors
    /// `Malformed` for everything that is not written so.
    pub fn parse(bytes: &[u8]) -> Result<Renewal<'_>, RenewalFault> {
        if bytes.len() > RENEWAL_SIZE_MAX {
            return Err(RenewalFault::Malformed("too long"));
        }
        let mut rest = bytes;
        if take::<1>(&mut rest) != Some([VERSION]) {
            return Err(RenewalFault::Malformed("another version"));
        }
        let cut = RenewalFault::Malformed("too short");
        let made = take(&mut rest).map(u64::from_be_bytes).ok_or_else(|| cut.clone())?;
        let chain = take_chain(&mut rest).ok_or_else(|| cut.clone())?;
        let request = take_der(&mut rest).ok_or_else(|| cut.clone())?;
        if rest.is_empty() {
            return Err(cut);
        }
        let signed = &bytes[..bytes.len() - rest.len()];
        Ok(Renewal { made, chain, request, signed, signature: rest })
    }

    /// Judges it by the internal authority and its lists, both in `trust`, at `now`.
    ///
    /// # Errors
    /// Why nothing is made.
    pub fn judge(&self, trust: &Trust, now: UnixTime) -> Result<Renewable, RenewalFault> {
        if self.made.abs_diff(now.as_secs()) > RENEWAL_WITHIN.as_secs() {
            return Err(RenewalFault::Untimely { made: self.made, now: now.as_secs() });
        }
        let leaf = self.chain.first().ok_or(RenewalFault::Malformed("no certificate"))?;
        let name = internal_identity(leaf)?;
        verify(&self.chain, name.role, trust, now)?;
        if may_be_shut_out(&self.chain, trust) {
            return Err(RenewalFault::Revoked);
        }
        let der = CertificateDer::from(*leaf);
        let end =
            EndEntityCert::try_from(&der).map_err(|error| RenewalFault::Untrusted(error.to_string()))?;
        let message = [CONTEXT, self.signed].concat();
        let is_by = |algorithm: &&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
            end.verify_signature(*algorithm, &message, self.signature).is_ok()
        };
        if !webpki::ALL_VERIFICATION_ALGS.iter().any(is_by) {
            return Err(RenewalFault::BadSignature);
        }
        let leaf = parse(leaf).ok_or(RenewalFault::Malformed("no certificate"))?;
        let request = match X509CertificationRequest::from_der(self.request) {
            Ok(([], request)) => request,
            _ => return Err(RenewalFault::Malformed("no request in DER")),
        };
        prove(&request)?;
        let key = &request.certification_request_info.subject_pki;
        if key.raw == leaf.public_key().raw {
            return Err(RenewalFault::SameKey);
        }
        let held = leaf.subject_alternative_name().ok().flatten();
        let held = held.and_then(|held| Names::of(&held.value.general_names));
        let held = held.ok_or(RenewalFault::OtherNames)?;
        if asked_for(&request).as_ref() != Some(&held) || held.dns.len() > RENEWAL_NAMES_MAX {
            return Err(RenewalFault::OtherNames);
        }
        let names = held.dns.iter().map(|name| (*name).to_owned()).collect();
        Ok(Renewable { name, names, key: key.raw.to_vec(), serial: leaf.raw_serial().to_vec() })
    }
}

/// Judges the chain that an issuer gave, for whoever has `name` and asked for a certificate of `key`
/// (SubjectPublicKeyInfo in DER).
///
/// # Errors
/// It is not what was asked for, or none that is good now.
pub fn judge_renewed<D: AsRef<[u8]>>(
    chain: &[D],
    name: &InternalName,
    key: &[u8],
    trust: &Trust,
    now: UnixTime,
) -> Result<(), RenewalFault> {
    let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
    let leaf = chain.first().ok_or(RenewalFault::Malformed("no certificate"))?;
    if internal_identity(leaf)? != *name {
        return Err(RenewalFault::OtherNames);
    }
    verify(&chain, name.role, trust, now)?;
    let parsed = parse(leaf).ok_or(RenewalFault::Malformed("no certificate"))?;
    if parsed.public_key().raw != key {
        return Err(RenewalFault::NotProven);
    }
    if may_be_shut_out(&chain, trust) { Err(RenewalFault::Revoked) } else { Ok(()) }
}

fn verify(chain: &[&[u8]], role: InternalRole, trust: &Trust, now: UnixTime) -> Result<(), RenewalFault> {
    let untrusted = |error: webpki::Error| RenewalFault::Untrusted(error.to_string());
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
    let (leaf, between) = chain.split_first().ok_or(RenewalFault::Malformed("no certificate"))?;
    let usage = match role {
        InternalRole::Gateway => KeyUsage::server_auth(),
        InternalRole::Connector => KeyUsage::client_auth(),
    };
    let end = EndEntityCert::try_from(leaf).map_err(untrusted)?;
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    let path = end.verify_for_usage(algorithms, &trust.anchors, between, now, usage, None, None);
    path.map(drop).map_err(untrusted)
}

/// Whether the request is by the key in it, and that is of a kind that is taken.
fn prove(request: &X509CertificationRequest<'_>) -> Result<(), RenewalFault> {
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
        VerificationAlgorithm,
    };
    let key = &request.certification_request_info.subject_pki;
    if let Some(odd) = odd_public_key(key) {
        return Err(RenewalFault::OddKey(odd));
    }
    let by = request.signature_algorithm.algorithm.to_id_string();
    let algorithm: &'static dyn VerificationAlgorithm = match (key.parsed(), by.as_str()) {
        (Ok(PublicKey::EC(point)), ECDSA_SHA256) if point.key_size() == 256 => &ECDSA_P256_SHA256_ASN1,
        (Ok(PublicKey::EC(point)), ECDSA_SHA384) if point.key_size() == 384 => &ECDSA_P384_SHA384_ASN1,
        (Ok(PublicKey::RSA(_)), RSA_SHA256) => &RSA_PKCS1_2048_8192_SHA256,
        (Ok(PublicKey::EC(_) | PublicKey::RSA(_)), _) => return Err(RenewalFault::NotProven),
        _ => return Err(RenewalFault::OddKey("of another kind".to_owned())),
    };
    UnparsedPublicKey::new(algorithm, &key.subject_public_key.data)
        .verify(request.certification_request_info.raw, &request.signature_value.data)
        .map_err(|_| RenewalFault::NotProven)
}

const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
const RSA_SHA256: &str = "1.2.840.113549.1.1.11";

/// Subject alternative names.
#[derive(Debug, PartialEq, Eq)]
struct Names<'n> {
    uris: BTreeSet<&'n str>,
    dns: BTreeSet<&'n str>,
}

impl<'n> Names<'n> {
    /// `None` when there are others.
    fn of(names: &[GeneralName<'n>]) -> Option<Names<'n>> {
        let mut found = Names { uris: BTreeSet::new(), dns: BTreeSet::new() };
        for name in names {
            match name {
                GeneralName::URI(uri) => found.uris.insert(uri),
                GeneralName::DNSName(name) => found.dns.insert(name),
                _ => return None,
            };
        }
        Some(found)
    }
}

fn asked_for<'r>(request: &'r X509CertificationRequest<'_>) -> Option<Names<'r>> {
    let mut extensions = request.requested_extensions()?.filter_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(names),
        _ => None,
    });
    let names = extensions.next()?;
    if extensions.next().is_some() { None } else { Names::of(&names.general_names) }
}

// ── octets ──────────────────────────────────────────────────────────────────────────────────────

/// A chain as an answer; `None`: too long, or empty.
pub fn write_chain<D: AsRef<[u8]>>(chain: &[D]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    put_chain(&mut out, chain)?;
    (out.len() <= RENEWED_SIZE_MAX).then_some(out)
}

/// A chain from an answer.
pub fn read_chain(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = bytes;
    let chain = take_chain(&mut rest)?;
    (rest.is_empty() && bytes.len() <= RENEWED_SIZE_MAX).then_some(chain)
}

fn put_chain<D: AsRef<[u8]>>(out: &mut Vec<u8>, chain: &[D]) -> Option<()> {
    if !(1..=RENEWAL_CHAIN_MAX).contains(&chain.len()) {
        return None;
    }
    out.push(chain.len() as u8);
    chain.iter().try_for_each(|der| put_der(out, der.as_ref()))
}

fn put_der(out: &mut Vec<u8>, der: &[u8]) -> Option<()> {
    let size = u16::try_from(der.len()).ok().filter(|size| *size > 0)?;
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(der);
    Some(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*front)
}

fn take_der<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let size = usize::from(u16::from_be_bytes(take(rest)?));
    let (front, behind) = rest.split_at_checked(size).filter(|_| size > 0)?;
    *rest = behind;
    Some(front)
}

fn take_chain<'b>(rest: &mut &'b [u8]) -> Option<Vec<&'b [u8]>> {
    let [count] = take(rest)?;
    if !(1..=RENEWAL_CHAIN_MAX).contains(&usize::from(count)) {
        return None;
    }
    (0..count).map(|_| take_der(rest)).collect()
}
