//! Who cannot connect because of the kind of server certificates, and what to add.

use rustls::SignatureAlgorithm;

use super::{Desk, Findings, GatewayReview};

/// What the kinds of a gateway's server certificates mean for clients.
pub fn shut_out(review: &GatewayReview) -> Findings {
    let now = rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::ZERO);
    let mut desk = Desk::new(&review.document, now);
    let kinds: Vec<_> = review.servers.iter().map(super::certificates::Pair::algorithm).collect();
    let is_whole =
        review.settings.as_ref().is_some_and(|settings| settings.server_certificates.len() == kinds.len());
    if !is_whole {
        return desk.findings;
    }
    let key = "server_certificate[1].chain";
    let has = |kind| kinds.contains(&kind);
    match (has(SignatureAlgorithm::RSA), has(SignatureAlgorithm::ECDSA)) {
        (true, true) => {
            desk.fine("server_certificate: RSA and ECDSA: every client that speaks TLS 1.2 with GCM finds one");
        }
        (false, true) => desk.warn(
            key,
            "ECDSA certificates alone, which shut out clients that check RSA signatures only (old or \
             restricted TLS stacks, policies that list RSA suites alone)",
            "a second [[server_certificate]] with an RSA key, if you have such clients; Windows from 8.1 on \
             needs none",
        ),
        (true, false) => desk.warn(
            key,
            "RSA certificates alone, which shut out Windows 8.1 and Server 2012 R2 (with RSA they offer no \
             suite with GCM) and cost several times the CPU of ECDSA in each full handshake",
            "a second [[server_certificate]] with an ECDSA P-256 key; clients that cannot use it still get RSA",
        ),
        (false, false) => desk.warn(
            key,
            "neither an RSA nor an ECDSA certificate: no client on Windows can connect",
            "a [[server_certificate]] with an ECDSA P-256 or an RSA key",
        ),
    }
    desk.findings
}
