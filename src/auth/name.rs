//! Distinguished names as text, so that no two names read alike.
//!
//! As RFC 4514 writes them, but in the order of the certificate and with a blank behind each comma. What
//! could be taken for another attribute, another line or another direction of reading is escaped: a name
//! is what a stranger chose, and stands in logs and rules. x509-parser's own text escapes nothing.

use std::fmt::Write as _;

use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

/// The whole name, as in `CN=client1, O=Contoso`.
pub fn name_text(name: &X509Name<'_>) -> String {
    parts(name).join(", ")
}

/// Its relative names, each as text, in the order of the certificate.
pub(super) fn parts(name: &X509Name<'_>) -> Vec<String> {
    name.iter_rdn().map(part).collect()
}

/// Relative names of a text as [`name_text`] writes it. A blank behind a comma may be left out.
pub(super) fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut is_escaped) = (Vec::new(), String::new(), false);
    for sign in text.chars() {
        match sign {
            ',' if !is_escaped => parts.push(std::mem::take(&mut part)),
            ' ' if part.is_empty() => {}
            sign => part.push(sign),
        }
        is_escaped = sign == '\\' && !is_escaped;
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Whether a text is made of attributes, as rules are.
pub fn is_name_rule(text: &str) -> bool {
    let parts = split(text);
    !parts.is_empty() && parts.iter().all(|part| part.contains('='))
}

fn part(part: &RelativeDistinguishedName<'_>) -> String {
    let attributes: Vec<String> = part.iter().map(attribute).collect();
    attributes.join("+")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
    let mut text = String::with_capacity(32);
    text.push_str(short.unwrap_or(&oid));
    text.push('=');
    let value = attribute.attr_value();
    match characters(value.tag().0, value.data) {
        Some(characters) => escape(&characters, &mut text),
        None => {
            let _ = write!(text, "#{:02x}:", value.tag().0);
            value.data.iter().for_each(|octet| {
                let _ = write!(text, "{octet:02x}");
            });
        }
    }
    text
}

/// Attribute types with a short name in RFC 4514, and two that are common.
const SHORT: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The characters of a string type; `None` for others, and for octets that are none.
fn characters(tag: u32, octets: &[u8]) -> Option<String> {
    match tag {
        UTF8 => std::str::from_utf8(octets).ok().map(str::to_owned),
        NUMERIC | PRINTABLE | TELETEX | IA5 | VISIBLE if octets.is_ascii() => {
            std::str::from_utf8(octets).ok().map(str::to_owned)
        }
        BMP if octets.len().is_multiple_of(2) => {
            let units = octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<String, _>>().ok()
        }
        _ => None,
    }
}

const UTF8: u32 = 12;
const NUMERIC: u32 = 18;
const PRINTABLE: u32 = 19;
const TELETEX: u32 = 20;
const IA5: u32 = 22;
const VISIBLE: u32 = 26;
const BMP: u32 = 30;

fn escape(value: &str, out: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (place, sign) in value.chars().enumerate() {
        let is_outer_blank = sign == ' ' && (place == 0 || place == last);
        match sign {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => out.extend(['\\', sign]),
            '#' if place == 0 => out.push_str("\\#"),
            ' ' if is_outer_blank => out.push_str("\\20"),
            sign if is_plain(sign) => out.push(sign),
            sign => sign.encode_utf8(&mut [0; 4]).bytes().for_each(|octet| {
                let _ = write!(out, "\\{octet:02X}");
            }),
        }
    }
}

/// Neither a control character, nor one that is not seen or turns the direction of reading.
fn is_plain(sign: char) -> bool {
    let is_unseen = matches!(sign,
        '\u{00A0}' | '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{2000}'..='\u{200F}' | '\u{2028}'..='\u{202F}' | '\u{205F}'..='\u{206F}'
        | '\u{3000}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}'
        | '\u{E0000}'..='\u{E0FFF}');
    !sign.is_control() && !is_unseen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str) -> String {
        let mut out = String::new();
        escape(value, &mut out);
        out
    }

    #[test]
    fn a_value_never_reads_as_another_attribute_or_line() {
        let rows = [
            ("client1", "client1"),
            ("Ünïcode 名", "Ünïcode 名"),
            ("a, O=b", r"a\, O\=b"),
            ("a+OU=b", r"a\+OU\=b"),
            (r"a\", r"a\\"),
            ("\"<;>\"", r#"\"\<\;\>\""#),
            ("#0401", r"\#0401"),
            (" a ", r"\20a\20"),
            (" ", r"\20"),
            ("a\nWARN forged", r"a\0AWARN forged"),
            ("a\u{1b}[31m", r"a\1B[31m"),
            ("a\0b", r"a\00b"),
            ("abc\u{202e}cba", r"abc\E2\80\AEcba"),
            ("a\u{200b}b", r"a\E2\80\8Bb"),
            ("a\u{2028}b", r"a\E2\80\A8b"),
            ("a\u{85}b", r"a\C2\85b"),
        ];
        for (value, text) in rows {
            assert_eq!(escaped(value), text, "{value:?}");
        }
    }

    #[test]
    fn a_text_is_split_where_a_name_is_and_nowhere_else() {
        let rows: [(&str, &[&str]); 6] = [
            ("CN=a, O=b", &["CN=a", "O=b"]),
            ("CN=a,O=b", &["CN=a", "O=b"]),
            (r"CN=a\, O\=b", &[r"CN=a\, O\=b"]),
            (r"CN=a\\, O=b", &[r"CN=a\\", "O=b"]),
            ("CN=a b", &["CN=a b"]),
            ("", &[]),
        ];
        for (text, parts) in rows {
            assert_eq!(split(text), parts, "{text}");
        }
    }

    #[test]
    fn octets_of_other_types_are_shown_as_digits() {
        assert_eq!(characters(UTF8, b"\xff"), None);
        assert_eq!(characters(PRINTABLE, b"\xe9"), None);
        assert_eq!(characters(BMP, &[0, b'a', 0xD8]), None);
        assert_eq!(characters(BMP, &[0, b'a', 1, 0]).as_deref(), Some("aĀ"));
        assert_eq!(characters(4, b"a"), None);
    }
}
