//! Who is asking: facts of client certificates, and the internal certificates of the roles.
//!
//! Pure: certificates as DER, time as an argument. The handshake has proved that the peer holds the
//! key; here the certificate itself is judged, per request and against the trust of the URL's site.
//! Tokens and revocation lists come here as well.

mod certificate;
mod internal;
#[cfg(test)]
mod tests;
mod trust;

pub use certificate::{CertificateFacts, CertificateFault, client_cert_field, judge, subject_of};
pub use internal::{InternalFault, InternalName, InternalRole, internal_identity, is_name, is_site_code};
pub use trust::{Trust, TrustFault};

use rustls::pki_types::UnixTime;

/// Feeds bytes as a certificate to everything that reads one.
///
/// # Panics
/// When somebody is trusted although nobody is, or a name does not survive being written and read.
pub fn fuzz(bytes: &[u8]) {
    let nobody = Trust::new::<&[u8]>(&[], &[]).expect("no certificate is wrong");
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
    assert!(judge(&[bytes, bytes], &nobody, now).is_err());
    if let Ok(name) = internal_identity(bytes) {
        assert_eq!(InternalName::parse(&name.to_string()), Some(name));
    }
    if let Some(name) = std::str::from_utf8(bytes).ok().and_then(InternalName::parse) {
        assert_eq!(InternalName::parse(&name.to_string()), Some(name));
    }
    let field = client_cert_field(bytes);
    assert!(field.starts_with(':') && field.ends_with(':') && field.is_ascii());
    let _ = Trust::new(&[bytes], &[bytes]);
}
