//! Signatures in the name of a hierarchy: by `jsonwebtoken` over ring, in the one process that has the key.

use std::fmt;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature::{Error, Signer as MakesSignatures};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::StsError;
use crate::auth::token::provider;

/// A key and the hierarchy whose tokens it signs.
pub struct Signer {
    hierarchy: String,
    header: Header,
    key: EncodingKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("hierarchy", &self.hierarchy).finish_non_exhaustive()
    }
}

impl Signer {
    pub(super) fn new(hierarchy: String, kid: Option<String>, der: &PrivatePkcs8KeyDer<'_>) -> Signer {
        install();
        let mut header = Header::new(Algorithm::RS256);
        header.kid = kid;
        Signer { hierarchy, header, key: EncodingKey::from_rsa_der(der.secret_pkcs8_der()) }
    }

    /// GUID of the hierarchy.
    pub fn hierarchy(&self) -> &str {
        &self.hierarchy
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, claims: &serde_json::Value) -> std::result::Result<String, StsError> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
            .map_err(|error| StsError::Key(error.to_string()))
    }
}

/// Makes `jsonwebtoken` sign with ring; before anything is verified in this process.
fn install() {
    // It says no when a provider is there: ours, from an earlier call.
    let _ = SIGNING.install_default();
}

static SIGNING: CryptoProvider = provider(signer);

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    let Algorithm::RS256 = algorithm else { return Err(new_error(ErrorKind::UnsupportedAlgorithm)) };
    let pair = RsaKeyPair::from_pkcs8(key.as_bytes()).map_err(|_| new_error(ErrorKind::InvalidKeyFormat))?;
    Ok(Box::new(Rs256(pair)))
}

struct Rs256(RsaKeyPair);

impl MakesSignatures<Vec<u8>> for Rs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        let random = SystemRandom::new();
        self.0.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| Error::new())?;
        Ok(signature)
    }
}

impl JwtSigner for Rs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}
