//! When the certificates in use end.

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::page::Page;

/// What it is for, its file, and when it ends, in seconds since 1970.
pub type Certificate = (&'static str, String, i64);

/// When the first certificate of a chain ends, in seconds since 1970; `None` if it cannot be read.
pub fn expiry(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let (_, leaf) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    Some(leaf.validity().not_after.timestamp())
}

/// For `/metrics`.
pub fn describe_certificates(page: &mut Page, certificates: &[Certificate]) {
    let help = "When a certificate in use ends, in seconds since 1970.";
    let mut rows = page.gauge("cmg_certificate_expiry_timestamp_seconds", help);
    for (what, file, ends) in certificates {
        rows.row(&[("use", what), ("file", file)], *ends as f64);
    }
}

/// For `/status`.
pub fn show_certificates(certificates: &[Certificate]) -> Value {
    let show = |(what, file, ends): &Certificate| {
        let ends = jiff::Timestamp::from_second(*ends).map(|ends| ends.to_string()).ok();
        json!({ "use": what, "file": file, "expires": ends })
    };
    certificates.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_has_no_end() {
        assert_eq!(expiry(&[]), None);
        assert_eq!(expiry(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }

    #[test]
    fn an_end_is_shown_as_a_number_and_as_a_date() {
        let certificates = [("server", "a.pem".to_owned(), 1_800_000_000)];
        let mut page = Page::default();
        describe_certificates(&mut page, &certificates);
        assert!(page.text().ends_with("{use=\"server\",file=\"a.pem\"} 1800000000\n"));
        assert_eq!(show_certificates(&certificates)[0]["expires"], "2027-01-15T08:00:00Z");
    }
}
