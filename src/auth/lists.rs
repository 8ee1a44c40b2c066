//! Whom a site shuts out by name, and whom alone it lets in of those its roots vouch for.
//!
//! The block list is a text of its own, so that it can change at any time; the rules of admission are
//! settings. Names are compared as `name.rs` writes them: no two are written alike.

use std::collections::HashSet;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::certificate::CertificateFault;
use super::name::{name_text, parts, split};
use super::revocation_list::{Number, digits, number_of};
use super::twin::twins;
use crate::limits::{BLOCK_LIST_SIZE_MAX, BLOCKED_COUNT_MAX};

/// Certificates that are refused whatever else is good of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockList {
    thumbprints: HashSet<[u8; 32]>,
    /// Name of the authority, as text, and serial number.
    serials: HashSet<(String, Number)>,
}

/// A line of a block list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// Longer than [`BLOCK_LIST_SIZE_MAX`].
    #[error("the block list has {0} octets, more than {BLOCK_LIST_SIZE_MAX}")]
    TooLong(usize),
    /// More lines than [`BLOCKED_COUNT_MAX`].
    #[error("the block list names more than {BLOCKED_COUNT_MAX} certificates")]
    TooMany,
    /// Octets that are no text.
    #[error("the block list is no text in UTF-8")]
    NoText,
    /// What stands there is neither.
    #[error("line {0} of the block list is neither \"sha256 DIGITS\" nor \"serial DIGITS issuer NAME\"")]
    Line(usize),
}

impl BlockList {
    /// Reads a block list: `sha256 DIGITS` or `serial DIGITS issuer NAME` on each line, `#` before a note.
    ///
    /// # Errors
    /// The first line that is neither.
    pub fn parse(bytes: &[u8]) -> Result<BlockList, BlockFault> {
        if bytes.len() > BLOCK_LIST_SIZE_MAX {
            return Err(BlockFault::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BlockFault::NoText)?;
        let mut list = BlockList::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                list.add(line).ok_or(BlockFault::Line(index + 1))?;
            }
            if list.len() > BLOCKED_COUNT_MAX {
                return Err(BlockFault::TooMany);
            }
        }
        Ok(list)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        match line.split_once(char::is_whitespace)? {
            ("sha256", digits) => {
                self.thumbprints.insert(hex(digits)?.try_into().ok()?);
            }
            ("serial", rest) => {
                let (serial, issuer) = rest.split_once(" issuer ")?;
                // A note behind it would become part of the name, which then is nobody's.
                if issuer.contains(" #") {
                    return None;
                }
                let issuer = split(issuer.trim()).join(", ");
                let serial = number_of(&hex(serial)?)?;
                (!issuer.is_empty()).then(|| self.serials.insert((issuer, serial)))?;
            }
            _ => return None,
        }
        Some(())
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.thumbprints.len() + self.serials.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.thumbprints.is_empty() && self.serials.is_empty()
    }

    fn has(&self, der: &[u8]) -> bool {
        self.thumbprints.contains(ring::digest::digest(&ring::digest::SHA256, der).as_ref())
    }

    /// How it names the certificate, if it does; one that somebody signed anew without its issuer's key, too.
    pub(super) fn find(&self, der: &[u8], certificate: &X509Certificate<'_>) -> Option<CertificateFault> {
        if self.is_empty() {
            return None;
        }
        let subject = || name_text(certificate.subject());
        if !self.thumbprints.is_empty() && (self.has(der) || twins(der).iter().any(|twin| self.has(twin))) {
            return Some(CertificateFault::Blocked { subject: subject(), by: "its thumbprint".to_owned() });
        }
        let serial = number_of(certificate.raw_serial())?;
        let named = (name_text(certificate.issuer()), serial);
        let by = || format!("serial number {} of {:?}", digits(&serial), named.0);
        self.serials.contains(&named).then(|| CertificateFault::Blocked { subject: subject(), by: by() })
    }
}

/// Hexadecimal digits; colons and blanks are read over.
fn hex(text: &str) -> Option<Vec<u8>> {
    let signs = text.chars().filter(|sign| !matches!(sign, ':' | ' '));
    let digits: Vec<u8> =
        signs.map(|sign| sign.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let odd = digits.len() % 2;
    let pairs = digits[odd..].chunks(2).map(|pair| pair.iter().fold(0, |high, low| high << 4 | low));
    (!digits.is_empty()).then(|| digits[..odd].iter().copied().chain(pairs).collect())
}

/// Whom a site lets in of those its roots vouch for; an empty list lets in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AllowRules {
    /// Attributes that the issuer's name has all of; one of these must fit.
    pub issuers: Vec<String>,
    /// The same of the owner's name.
    pub subjects: Vec<String>,
    /// Alternative names (DNS, mail, URI), `*.` in front stands for one label of a DNS name; one must be there.
    pub names: Vec<String>,
}

impl AllowRules {
    /// Whether every certificate passes.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty() && self.subjects.is_empty() && self.names.is_empty()
    }

    pub(super) fn judge(&self, leaf: &X509Certificate<'_>) -> Result<(), CertificateFault> {
        let has = |rules: &[String], name| {
            let own = parts(name);
            let fits = |rule: &String| {
                let wanted = split(rule);
                !wanted.is_empty() && wanted.iter().all(|part| own.contains(part))
            };
            rules.is_empty() || rules.iter().any(fits)
        };
        let not_allowed =
            |what: &str, found: String| Err(CertificateFault::NotAllowed { what: what.to_owned(), found });
        if !has(&self.issuers, leaf.issuer()) {
            return not_allowed("issuer", name_text(leaf.issuer()));
        }
        if !has(&self.subjects, leaf.subject()) {
            return not_allowed("subject", name_text(leaf.subject()));
        }
        let names = alternative_names(leaf);
        let is_named = |name: &AlternativeName| self.names.iter().any(|rule| is_name_of(rule, name));
        if !self.names.is_empty() && !names.iter().any(is_named) {
            let names: Vec<_> = names.into_iter().map(|name| name.text).collect();
            return not_allowed("alternative name", names.join(" "));
        }
        Ok(())
    }
}

struct AlternativeName {
    text: String,
    is_dns: bool,
}

fn alternative_names(leaf: &X509Certificate<'_>) -> Vec<AlternativeName> {
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let text = |name: &GeneralName<'_>| {
        let (text, is_dns) = match name {
            GeneralName::DNSName(name) => (name, true),
            GeneralName::RFC822Name(name) | GeneralName::URI(name) => (name, false),
            _ => return None,
        };
        Some(AlternativeName { text: (*text).to_owned(), is_dns })
    };
    names.iter().filter_map(text).collect()
}

fn is_name_of(rule: &str, AlternativeName { text: name, is_dns }: &AlternativeName) -> bool {
    match rule.strip_prefix("*.") {
        // `bob@pc1.corp` and `https://x.corp` are no labels below it.
        Some(rule) => {
            let below = |(label, rest): (&str, &str)| !label.is_empty() && rest.eq_ignore_ascii_case(rule);
            *is_dns && name.split_once('.').is_some_and(below)
        }
        None => rule.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_block_list_says_which_line_is_wrong() {
        let thumbprint = "ab".repeat(32);
        let rows = [
            (String::new(), Ok(0)),
            ("# nobody\n\n".to_owned(), Ok(0)),
            (format!("sha256 {thumbprint}"), Ok(1)),
            (format!("sha256 {}\n", "AB:".repeat(32)), Ok(1)),
            (format!("sha256 {thumbprint}\nsha256 {thumbprint}\n"), Ok(1)),
            ("serial 0A issuer CN=Contoso CA, O=Contoso\r\n".to_owned(), Ok(1)),
            ("serial 0x0A issuer CN=a".to_owned(), Err(BlockFault::Line(1))),
            ("serial 0A".to_owned(), Err(BlockFault::Line(1))),
            ("serial 0A issuer ".to_owned(), Err(BlockFault::Line(1))),
            ("serial  issuer CN=a".to_owned(), Err(BlockFault::Line(1))),
            ("\n\nsha256 abcd".to_owned(), Err(BlockFault::Line(3))),
            ("everybody".to_owned(), Err(BlockFault::Line(1))),
            (" ".repeat(BLOCK_LIST_SIZE_MAX + 1), Err(BlockFault::TooLong(BLOCK_LIST_SIZE_MAX + 1))),
        ];
        for (text, expected) in rows {
            let read = BlockList::parse(text.as_bytes()).map(|list| list.len());
            assert_eq!(read, expected, "{}", text.get(..80).unwrap_or(&text));
        }
        assert_eq!(BlockList::parse(b"\xff"), Err(BlockFault::NoText));
    }

    #[test]
    fn a_star_is_one_label_in_front() {
        let rows = [
            ("pc1.corp", "PC1.corp", true),
            ("*.corp", "pc1.corp", true),
            ("*.corp", "a.pc1.corp", false),
            ("*.corp", ".corp", false),
            ("*.corp", "corp", false),
            ("*.corp", "pc1.corp.example", false),
            ("*", "pc1.corp", false),
        ];
        let named = |text: &str, is_dns| AlternativeName { text: text.to_owned(), is_dns };
        for (rule, name, fits) in rows {
            assert_eq!(is_name_of(rule, &named(name, true)), fits, "{rule} {name}");
        }
        assert!(!is_name_of("*.corp", &named("bob@pc1.corp", false)), "no label below it");
        assert!(is_name_of("bob@pc1.corp", &named("bob@pc1.corp", false)));
    }
}
