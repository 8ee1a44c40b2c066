//! Whose client certificates a site takes.

use rustls::pki_types::{CertificateDer, TrustAnchor};

/// Trust anchors and issuing CAs of a site, ready for judging.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    /// Names of the anchors, for telling which link is missing.
    pub(super) anchor_names: Vec<Vec<u8>>,
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
        let mut trust = Trust::default();
        for (index, root) in roots.iter().enumerate() {
            let root = CertificateDer::from(root.as_ref());
            let fault = |reason: String| TrustFault::Root { index, reason };
            let anchor = webpki::anchor_from_trusted_cert(&root).map_err(|error| fault(error.to_string()))?;
            let parsed =
                super::certificate::parse(&root).ok_or_else(|| fault("not a certificate".to_owned()))?;
            trust.anchor_names.push(parsed.subject().as_raw().to_vec());
            trust.anchors.push(anchor.to_owned());
        }
        for (index, intermediate) in intermediates.iter().enumerate() {
            let der = CertificateDer::from(intermediate.as_ref());
            if super::certificate::parse(&der).is_none() {
                return Err(TrustFault::Intermediate { index, reason: "not a certificate".to_owned() });
            }
            trust.intermediates.push(der.into_owned());
        }
        Ok(trust)
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }
}
