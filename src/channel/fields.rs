//! Header fields inside a message: a list of names and values, checked once when read.

use super::bytes::Bytes;
use crate::limits::{FIELD_COUNT_MAX, FIELD_NAME_SIZE_MAX, FRAME_PAYLOAD_SIZE_MAX, TRAILERS_SIZE_MAX};

/// One header or trailer field; the value has no blanks around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// A token (RFC 9110 5.6.2), in the spelling received.
    pub name: &'b [u8],
    /// Without control characters other than TAB; may be empty.
    pub value: &'b [u8],
}

/// The message does not fit one frame, or has more fields than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message does not fit one frame")]
pub struct TooLarge;

/// The fields of a message that was read; iterating gives them in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'b> {
    /// Already checked: as many name-value pairs as there are bytes for.
    bytes: &'b [u8],
}

impl<'b> Fields<'b> {
    /// No field at all.
    pub const NONE: Fields<'static> = Fields { bytes: &[] };

    /// Reads exactly `count` fields that fill `bytes`, each of which `judge` takes. The error says what is
    /// wrong.
    pub(super) fn parse(
        bytes: &'b [u8],
        count: usize,
        mut judge: impl FnMut(Field<'b>) -> Result<(), &'static str>,
    ) -> Result<Fields<'b>, &'static str> {
        if count > FIELD_COUNT_MAX {
            return Err("too many fields");
        }
        let mut rest = Bytes(bytes);
        for _ in 0..count {
            let field = take(&mut rest).ok_or("a field is cut")?;
            check(&field)?;
            judge(field)?;
        }
        if rest.0.is_empty() { Ok(Fields { bytes }) } else { Err("bytes behind the last field") }
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Field<'b>;

    fn next(&mut self) -> Option<Field<'b>> {
        let mut rest = Bytes(self.bytes);
        let field = take(&mut rest)?;
        self.bytes = rest.0;
        Some(field)
    }
}

fn take<'b>(bytes: &mut Bytes<'b>) -> Option<Field<'b>> {
    let name_size = usize::from(bytes.u16()?);
    let value_size = usize::from(bytes.u16()?);
    Some(Field { name: bytes.take(name_size)?, value: bytes.take(value_size)? })
}

fn check(field: &Field<'_>) -> Result<(), &'static str> {
    if !is_token(field.name) || field.name.len() > FIELD_NAME_SIZE_MAX {
        return Err("a field name is no token");
    }
    if !is_text(field.value) || is_padded(field.value) {
        return Err("a field value with control characters or outer blanks");
    }
    Ok(())
}

fn is_padded(value: &[u8]) -> bool {
    matches!(value.first(), Some(b' ' | b'\t')) || matches!(value.last(), Some(b' ' | b'\t'))
}

/// Appends fields behind a head and counts them.
#[derive(Debug)]
pub(super) struct FieldsWriter {
    count: u16,
}

impl FieldsWriter {
    pub fn new() -> FieldsWriter {
        FieldsWriter { count: 0 }
    }

    /// Appends one field to the message that began at `start` of `out`.
    pub fn field(
        &mut self,
        out: &mut Vec<u8>,
        start: usize,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), TooLarge> {
        let size = out.len() - start + 4 + name.len() + value.len();
        let fits = size <= FRAME_PAYLOAD_SIZE_MAX && name.len() <= FIELD_NAME_SIZE_MAX;
        if !fits || usize::from(self.count) >= FIELD_COUNT_MAX {
            return Err(TooLarge);
        }
        let [n0, n1] = (name.len() as u16).to_be_bytes();
        let [v0, v1] = (value.len() as u16).to_be_bytes();
        out.extend_from_slice(&[n0, n1, v0, v1]);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        self.count += 1;
        Ok(())
    }

    /// Writes the count to where it stands in the message.
    pub fn finish(self, out: &mut [u8], count_at: usize) {
        out[count_at..count_at + 2].copy_from_slice(&self.count.to_be_bytes());
    }
}

/// Writes the payload of END: trailer fields. Nothing at all stands for no trailers.
#[derive(Debug)]
pub struct TrailersWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    fields: FieldsWriter,
}

impl<'o> TrailersWriter<'o> {
    /// Begins trailers at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>) -> TrailersWriter<'o> {
        let start = out.len();
        out.extend_from_slice(&[0, 0]);
        TrailersWriter { out, start, fields: FieldsWriter::new() }
    }

    /// Appends a field.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), TooLarge> {
        let size = self.out.len() - self.start + 4 + name.len() + value.len();
        if size > TRAILERS_SIZE_MAX + FIELD_COUNT_MAX {
            return Err(TooLarge);
        }
        self.fields.field(self.out, self.start, name, value)
    }

    /// Ends the trailers; without a field nothing is left in `out`.
    pub fn finish(self) {
        match self.fields.count {
            0 => self.out.truncate(self.start),
            _ => self.fields.finish(self.out, self.start),
        }
    }
}

/// Reads the payload of END. The error says what is wrong.
pub(super) fn parse_trailers(payload: &[u8]) -> Result<Fields<'_>, &'static str> {
    if payload.is_empty() {
        return Ok(Fields::NONE);
    }
    if payload.len() > TRAILERS_SIZE_MAX + FIELD_COUNT_MAX {
        return Err("trailers are too long");
    }
    let mut bytes = Bytes(payload);
    let count = bytes.u16().ok_or("a count is cut")?;
    if count == 0 {
        return Err("trailers without a field");
    }
    Fields::parse(bytes.0, usize::from(count), |_| Ok(()))
}

/// RFC 9110 5.6.2; empty is none.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// No control characters other than TAB. Looks at every byte without a branch, so that it vectorises.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |so_far, &byte| so_far & (((byte >= 0x20) & (byte != 0x7f)) | (byte == b'\t')))
}

/// Octets of a target: visible ASCII. `#` would begin a fragment, which is never sent.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'/')
        && bytes.iter().fold(true, |so_far, &byte| so_far & (byte > 0x20) & (byte < 0x7f) & (byte != b'#'))
}

/// Octets of a Host value: visible ASCII; may be empty.
pub(super) fn is_host(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |so_far, &byte| so_far & (byte > 0x20) & (byte < 0x7f))
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let is_special = matches!(
            byte as u8,
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
        );
        table[byte] = is_special || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
};
