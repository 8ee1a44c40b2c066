//! Who is asking: facts of client certificates, and the internal certificates of the roles.
//!
//! Pure: certificates as DER, time as an argument. The handshake has proved that the peer holds the
//! key; here the certificate itself is judged, per request and against the trust of the URL's site.
//! Clients without one show a token (`token`). Revocation lists come here as well.

mod certificate;
pub mod fuzz;
mod internal;
#[cfg(test)]
mod tests;
pub mod token;
mod trust;
mod verdicts;

pub use certificate::{CertificateFacts, CertificateFault, Validity, client_cert_field, judge, subject_of};
pub use internal::{InternalFault, InternalName, InternalRole, internal_identity, is_name, is_site_code};
pub use trust::{Trust, TrustFault};
pub use verdicts::{Asked, Verdicts};
