//! Whose client certificates a site takes.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;

use super::certificate::parse;
use super::lists::{AllowRules, BlockList};
use super::revocation::{ListStanding, Revocation, RevocationMode};
use super::revocation_list::{ListFault, RevocationList};

/// Everything by which a site judges certificates: trust anchors and issuing CAs, ready for judging, its
/// revocation lists, its block list and its rules of admission. A copy shares them all.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub(super) anchors: Arc<[TrustAnchor<'static>]>,
    pub(super) intermediates: Arc<[CertificateDer<'static>]>,
    /// Names of the anchors, for telling which link is missing.
    pub(super) anchor_names: Arc<[Vec<u8>]>,
    /// Anchors in their order, then intermediates.
    pub(super) authorities: Arc<[Authority]>,
    pub(super) revocation: Revocation,
    pub(super) blocked: Arc<BlockList>,
    pub(super) allowed: Arc<AllowRules>,
    /// An issuing CA that clients need not send may be blocked or revoked: any chain may lead over it.
    pub(super) has_doubtful_authority: bool,
    /// Keys of anchors that are blocked.
    blocked_anchors: Arc<[[u8; 32]]>,
}

/// One that may have signed a revocation list.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    /// Its name, in DER.
    pub subject: Vec<u8>,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
    /// Its key usage allows lists.
    pub may_sign_lists: bool,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new(der: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> Authority {
        let usage = parsed.key_usage().ok().flatten();
        Authority {
            subject: parsed.subject().as_raw().to_vec(),
            key: key_of(parsed),
            may_sign_lists: usage.is_none_or(|usage| usage.value.crl_sign()),
            der: der.clone().into_owned(),
        }
    }

    /// Whether its key made the signature.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(own) = EndEntityCert::try_from(&self.der) else { return false };
        webpki::ALL_VERIFICATION_ALGS
            .iter()
            .any(|algorithm| own.verify_signature(*algorithm, message, signature).is_ok())
    }
}

/// SHA-256 of a certificate's public key.
pub(super) fn key_of(certificate: &X509Certificate<'_>) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate.public_key().raw);
    digest.as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// A certificate in the site's trust that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustFault {
    /// Root number `index` (from 0) cannot be read.
    #[error("trusted root number {} cannot be read: {reason}", index + 1)]
    Root {
        /// From 0.
        index: usize,
        /// What the parser says.
        reason: String,
    },
    /// Intermediate number `index` (from 0) cannot be read.
    #[error("intermediate number {} cannot be read: {reason}", index + 1)]
    Intermediate {
        /// From 0.
        index: usize,
        /// What the parser says.
        reason: String,
    },
}

impl Trust {
    /// Trust in these certificates (DER).
    ///
    /// # Errors
    /// The first that cannot be read.
    pub fn new<D: AsRef<[u8]>>(roots: &[D], intermediates: &[D]) -> Result<Trust, TrustFault> {
        let (mut anchors, mut names, mut authorities) = (Vec::new(), Vec::new(), Vec::new());
        for (index, root) in roots.iter().enumerate() {
            let root = CertificateDer::from(root.as_ref());
            let fault = |reason: String| TrustFault::Root { index, reason };
            let anchor = webpki::anchor_from_trusted_cert(&root).map_err(|error| fault(error.to_string()))?;
            let parsed = parse(&root).ok_or_else(|| fault("not a certificate".to_owned()))?;
            names.push(parsed.subject().as_raw().to_vec());
            anchors.push(anchor.to_owned());
            authorities.push(Authority::new(&root, &parsed));
        }
        let mut between = Vec::new();
        for (index, intermediate) in intermediates.iter().enumerate() {
            let der = CertificateDer::from(intermediate.as_ref());
            let Some(parsed) = parse(&der) else {
                return Err(TrustFault::Intermediate { index, reason: "not a certificate".to_owned() });
            };
            authorities.push(Authority::new(&der, &parsed));
            between.push(der.clone().into_owned());
        }
        Ok(Trust {
            anchors: anchors.into(),
            intermediates: between.into(),
            anchor_names: names.into(),
            authorities: authorities.into(),
            ..Trust::default()
        })
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// The same trust with these rules of admission and this use of revocation lists.
    #[must_use]
    pub fn with_rules(mut self, allowed: AllowRules, mode: RevocationMode, grace_secs: u64) -> Trust {
        self.allowed = Arc::new(allowed);
        (self.revocation.mode, self.revocation.grace) = (mode, grace_secs);
        self.doubt();
        self
    }

    /// The same trust with the lists of `other`, as far as their authorities are known here too.
    #[must_use]
    pub fn with_lists_of(mut self, other: &Trust) -> Trust {
        self.revocation.lists.clone_from(&other.revocation.lists);
        let mut revocation = std::mem::take(&mut self.revocation);
        revocation.keep(|subject, key| self.knows_authority(subject, key));
        self.revocation = revocation;
        self.blocked = other.blocked.clone();
        self.doubt();
        self
    }

    /// Takes a revocation list that was read by this trust, or by one with the same certificates.
    ///
    /// # Errors
    /// One that does not take the place of what is held.
    pub fn take_list(&mut self, list: Arc<RevocationList>) -> Result<ListStanding, ListFault> {
        if !self.knows_authority(&list.issuer, &list.key) {
            return Err(ListFault::UnknownIssuer(list.issuer_text.clone()));
        }
        let standing = self.revocation.take(list)?;
        self.doubt();
        Ok(standing)
    }

    /// This block list from now on.
    pub fn block(&mut self, blocked: BlockList) {
        self.blocked = Arc::new(blocked);
        self.doubt();
    }

    /// The revocation lists, and how they are used.
    pub fn revocation(&self) -> &Revocation {
        &self.revocation
    }

    /// How many certificates are blocked.
    pub fn blocked_count(&self) -> usize {
        self.blocked.len()
    }

    fn knows_authority(&self, subject: &[u8], key: &[u8; 32]) -> bool {
        self.authorities.iter().any(|one| one.may_sign_lists && one.subject == subject && one.key == *key)
    }

    pub(super) fn looks_at_lists(&self) -> bool {
        self.revocation.mode != RevocationMode::Off
    }

    /// SHA-256 of the public key of one of its anchors.
    pub(super) fn key_of_anchor(&self, anchor: &TrustAnchor<'_>) -> [u8; 32] {
        let place = self.anchors.iter().position(|one| {
            one.subject == anchor.subject && one.subject_public_key_info == anchor.subject_public_key_info
        });
        place.and_then(|place| self.authorities.get(place)).map_or([0; 32], |authority| authority.key)
    }

    /// Whether an anchor, by its key, is blocked.
    pub(super) fn is_blocked_anchor(&self, key: &[u8; 32]) -> bool {
        self.blocked_anchors.contains(key)
    }

    fn doubt(&mut self) {
        let is_blocked = |one: &&Authority| {
            parse(&one.der).is_some_and(|certificate| self.blocked.find(&one.der, &certificate).is_some())
        };
        let anchors = self.authorities.iter().take(self.anchors.len());
        self.blocked_anchors = anchors.filter(is_blocked).map(|one| one.key).collect();
        self.has_doubtful_authority = !self.blocked_anchors.is_empty()
            || self.intermediates.iter().any(|der| {
                parse(der).is_some_and(|certificate| {
                    self.blocked.find(der, &certificate).is_some()
                        || self.revocation.may_have_revoked(&certificate)
                })
            });
    }
}
