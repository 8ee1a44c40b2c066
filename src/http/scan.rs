//! Looking at bytes before anything is made of them: where a head ends, and which octets may stand where.

use super::head::HeadError;
use crate::limits::{FIELD_COUNT_MAX, HEAD_SIZE_MAX};

const TOKEN: u8 = 1;
const VALUE: u8 = 2;

/// What each octet may be part of. Field values take obs-text (0x80 up).
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        let byte = octet as u8;
        let mut class = 0;
        if is_token_octet(byte) {
            class |= TOKEN;
        }
        if byte == b'\t' || (byte >= 0x20 && byte != 0x7F) {
            class |= VALUE;
        }
        classes[octet] = class;
        octet += 1;
    }
    classes
};

/// RFC 9110 5.6.2.
const fn is_token_octet(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| CLASSES[usize::from(*byte)] & class != 0)
}

/// Whether this is a token (RFC 9110 5.6.2), as methods and field names are: not empty.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// Whether this may stand as a field value: no control octets but the tab, no blanks around it.
pub fn is_field_value(bytes: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    all(bytes, VALUE) && !is_blank(bytes.first()) && !is_blank(bytes.last())
}

/// Whether this is a target in origin form: a slash, then visible ASCII without `#`, for real clients
/// send `.sms_pol?{GUID}` with its braces. Without an early way out, so that it is done many at a time.
pub fn is_target(bytes: &[u8]) -> bool {
    let is_target_octet = |byte: u8| (byte > 0x20) & (byte < 0x7F) & (byte != b'#');
    bytes.first() == Some(&b'/') && bytes.iter().fold(true, |so_far, byte| so_far & is_target_octet(*byte))
}

/// `bytes` without blanks and tabs around it.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Size of the head at the front of `bytes`, its empty line included; `None` while that is not there.
///
/// Looks only at line ends, so that a head still arriving costs little; yet what can never become one
/// is refused with the first octets that show it. The count of lines bounds what a byte by byte
/// arrival can cost.
pub(super) fn head_size(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    if bytes.first().is_some_and(|byte| CLASSES[usize::from(*byte)] & TOKEN == 0) {
        return Err(HeadError::StartLine); // A leading blank line, or TLS, or another protocol.
    }
    let seen = &bytes[..bytes.len().min(HEAD_SIZE_MAX)];
    let mut line = 0;
    for (count, feed) in memchr::memchr_iter(b'\n', seen).enumerate() {
        if feed == line || seen[feed - 1] != b'\r' {
            return Err(HeadError::LineEnd);
        }
        if feed - line == 1 {
            return Ok(Some(feed + 1));
        }
        if count > FIELD_COUNT_MAX {
            return Err(HeadError::TooManyFields); // The start line is line 0.
        }
        line = feed + 1;
    }
    if seen.len() == HEAD_SIZE_MAX { Err(HeadError::TooLarge) } else { Ok(None) }
}
