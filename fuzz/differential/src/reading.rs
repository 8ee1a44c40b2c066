//! What a reader makes of octets, in one form for all readers; and what cmg makes of them.

use cmg::http::{
    BodyReader, Field, FieldScratch, Fields, Parsed, Step, Version, parse_request, parse_response,
};

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    /// A response to HEAD.
    ResponseToHead,
}

/// How reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The message has so many octets.
    Complete(usize),
    /// More octets are needed.
    Partial,
    /// It is none; in the reader's words.
    Refused(String),
}

/// A message, as far as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub method: Vec<u8>,
    /// As it came, in whatever form.
    pub target: Vec<u8>,
    pub minor: u8,
    pub status: u16,
    pub reason: Vec<u8>,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its head was whole.
    pub has_head: bool,
    /// Whether another message may follow; `None` where the reader does not say.
    pub keeps: Option<bool>,
    pub end: End,
}

impl Reading {
    fn empty() -> Reading {
        Reading {
            method: Vec::new(),
            target: Vec::new(),
            minor: 0,
            status: 0,
            reason: Vec::new(),
            fields: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            has_head: false,
            keeps: None,
            end: End::Partial,
        }
    }

    fn refused(error: impl ToString) -> Reading {
        Reading { end: End::Refused(error.to_string()), ..Reading::empty() }
    }

    /// From the records that the shims write: `m` method, `t` target, `r` reason, `n` and `f` name and value
    /// of a field, `h` the end of the head (minor version, status), `b` body, `N` and `F` a trailer, `k`
    /// whether the connection goes on, `x` what was wrong. Several of a kind in a row are one.
    pub fn from_notes(mut notes: &[u8], end: End) -> Reading {
        let mut reading = Reading { end, ..Reading::empty() };
        while let [tag, a, b, c, d, rest @ ..] = notes {
            let size = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            let (octets, behind) = rest.split_at(size);
            reading.take(*tag, octets);
            notes = behind;
        }
        let trim = |value: &mut Vec<u8>| *value = value.trim_ascii().to_vec();
        reading.fields.iter_mut().for_each(|(_, value)| trim(value));
        reading.trailers.iter_mut().for_each(|(_, value)| trim(value));
        reading
    }

    fn take(&mut self, tag: u8, octets: &[u8]) {
        let value_of = |fields: &mut Vec<(Vec<u8>, Vec<u8>)>| {
            let (_, value) = fields.last_mut().expect("a value comes behind its name");
            value.extend_from_slice(octets);
        };
        match tag {
            b'm' => self.method.extend_from_slice(octets),
            b't' => self.target.extend_from_slice(octets),
            b'r' => self.reason.extend_from_slice(octets),
            b'n' => self.fields.push((octets.to_vec(), Vec::new())),
            b'f' => value_of(&mut self.fields),
            b'h' => {
                self.has_head = true;
                (self.minor, self.status) = (octets[0], u16::from_le_bytes([octets[1], octets[2]]));
            }
            b'b' => self.body.extend_from_slice(octets),
            b'N' => self.trailers.push((octets.to_vec(), Vec::new())),
            b'F' => value_of(&mut self.trailers),
            b'k' => self.keeps = Some(octets[0] != 0),
            b'x' => self.end = End::Refused(String::from_utf8_lossy(octets).into_owned()),
            _ => unreachable!("no shim writes the tag {tag}"),
        }
    }
}

/// As cmg reads it.
pub fn ours(kind: Kind, bytes: &[u8]) -> Reading {
    let mut scratch = FieldScratch::new();
    match kind {
        Kind::Request => match parse_request(bytes, &mut scratch) {
            Ok(Parsed::Complete { head, size }) => {
                let mut reading = begun(head.version, head.fields, head.keep_alive);
                reading.method = head.method.to_vec();
                reading.target = head.target.to_vec();
                body(reading, BodyReader::new(head.framing), bytes, size)
            }
            Ok(Parsed::Partial) => Reading::empty(),
            Err(error) => Reading::refused(error),
        },
        Kind::Response | Kind::ResponseToHead => {
            match parse_response(bytes, kind == Kind::ResponseToHead, &mut scratch) {
                Ok(Parsed::Complete { head, size }) => {
                    let mut reading = begun(head.version, head.fields, head.keep_alive);
                    (reading.status, reading.reason) = (head.status, head.reason.to_vec());
                    body(reading, BodyReader::of_response(head.framing), bytes, size)
                }
                Ok(Parsed::Partial) => Reading::empty(),
                Err(error) => Reading::refused(error),
            }
        }
    }
}

fn begun(version: Version, fields: Fields<'_, '_>, keeps: bool) -> Reading {
    Reading {
        minor: u8::from(version == Version::Http11),
        fields: fields.iter().map(owned).collect(),
        has_head: true,
        keeps: Some(keeps),
        ..Reading::empty()
    }
}

fn owned(field: Field<'_>) -> (Vec<u8>, Vec<u8>) {
    (field.name.to_vec(), field.value.to_vec())
}

fn body(mut reading: Reading, mut reader: BodyReader, bytes: &[u8], mut at: usize) -> Reading {
    loop {
        match reader.next(&bytes[at..]) {
            Ok(Step::Data { consumed, data }) => {
                reading.body.extend_from_slice(data);
                at += consumed;
            }
            Ok(Step::More { .. }) => break,
            Ok(Step::End { consumed }) => {
                reading.trailers = reader.trailers().map(owned).collect();
                reading.end = End::Complete(at + consumed);
                break;
            }
            Err(error) => {
                reading.end = End::Refused(error.to_string());
                break;
            }
        }
    }
    reading
}
