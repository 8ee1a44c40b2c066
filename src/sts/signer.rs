//! What `jsonwebtoken` makes signatures with: ring, in the one process that has a private key.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature::{Error, Signer};
use jsonwebtoken::{Algorithm, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};

use crate::auth::token::provider;

/// Makes `jsonwebtoken` sign with ring; before anything is verified in this process.
pub(super) fn install() {
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

impl Signer<Vec<u8>> for Rs256 {
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
