//! Who is asking: facts of client certificates, and the internal certificates of the roles.
//!
//! Pure: certificates as DER, time as an argument. The handshake has proved that the peer holds the
//! key; here the certificate itself is judged, per request and against the trust of the URL's site:
//! its chain, the site's revocation lists, its block list and its rules of admission. Clients without
//! one show a token (`token`).

mod certificate;
pub mod fuzz;
mod internal;
mod lists;
mod name;
mod renewal;
mod revocation;
mod revocation_list;
#[cfg(test)]
mod tests;
pub mod token;
mod trust;
mod twin;
mod verdicts;

pub use certificate::{
    CertificateFacts, CertificateFault, NoClientCert, Validity, client_cert_field, client_cert_of, judge,
    key_fault, life_of, may_be_shut_out, public_key_of, subject_of,
};
pub use internal::{InternalFault, InternalName, InternalRole, internal_identity, is_name, is_site_code};
pub use lists::{AllowRules, BlockFault, BlockList};
pub use name::{is_name_rule, name_text};
pub use renewal::{CONTEXT, Renewable, Renewal, RenewalFault, judge_renewed, read_chain, write_chain};
pub use revocation::{ListStanding, Revocation, RevocationMode};
pub use revocation_list::{ListFault, RevocationList, list_der, lists_der};
pub use trust::{Trust, TrustFault};
pub use twin::thumbprints;
pub use verdicts::{Asked, Verdicts};
