//! Where another reader disagrees with what cmg took, and which disagreements are known, with their reason.

use crate::reading::{End, Kind, Reading};

/// Who else read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Llhttp,
    H11,
}

/// What differs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Refused,
    StartLine,
    Fields,
    Body,
    Trailers,
    End,
    /// We would go on with the connection, they would not.
    Keeps,
}

/// A message that cmg took, and what another made of it.
pub struct Case<'c> {
    pub kind: Kind,
    pub reader: Reader,
    pub bytes: &'c [u8],
    pub ours: &'c Reading,
    pub theirs: &'c Reading,
}

/// Whether cmg took this: a whole head, and of its body nothing that is wrong.
pub fn is_taken(ours: &Reading) -> bool {
    ours.has_head && !matches!(ours.end, End::Refused(_))
}

impl Case<'_> {
    /// What differs; `None`: both take it, and for the same.
    pub fn difference(&self) -> Option<What> {
        let (ours, theirs) = (self.ours, self.theirs);
        let differs = |what, is_same: bool| if is_same { None } else { Some(what) };
        differs(What::Refused, !matches!(theirs.end, End::Refused(_)) && theirs.has_head)
            .or_else(|| differs(What::StartLine, self.is_start_line_same()))
            .or_else(|| differs(What::Fields, is_same_list(&ours.fields, &theirs.fields)))
            .or_else(|| differs(What::Body, ours.body == theirs.body))
            .or_else(|| differs(What::Trailers, self.are_trailers_same()))
            .or_else(|| differs(What::End, ours.end == theirs.end))
            .or_else(|| differs(What::Keeps, !(ours.keeps == Some(true) && theirs.keeps == Some(false))))
    }

    /// cmg gives them when all are there.
    fn are_trailers_same(&self) -> bool {
        self.ours.end == End::Partial || is_same_list(&self.ours.trailers, &self.theirs.trailers)
    }

    fn is_start_line_same(&self) -> bool {
        let (ours, theirs) = (self.ours, self.theirs);
        ours.method == theirs.method
            && ours.minor == theirs.minor
            && ours.status == theirs.status
            && is_same_target(&ours.target, &theirs.target)
            && ours.reason.trim_ascii() == theirs.reason.trim_ascii()
    }
}

/// Names and values; the coding in whatever case, for h11 writes it in lower case.
fn is_same_list(ours: &[(Vec<u8>, Vec<u8>)], theirs: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let is_same = |(ours, theirs): (&(Vec<u8>, Vec<u8>), &(Vec<u8>, Vec<u8>))| {
        let is_coding = ours.0.eq_ignore_ascii_case(b"transfer-encoding");
        let is_same_value =
            if is_coding { ours.1.eq_ignore_ascii_case(&theirs.1) } else { ours.1 == theirs.1 };
        ours.0 == theirs.0 && is_same_value
    };
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(is_same)
}

/// Ours is what follows the authority of an absolute target.
fn is_same_target(ours: &[u8], theirs: &[u8]) -> bool {
    let scheme_size = [b"http://".as_slice(), b"https://"]
        .into_iter()
        .find(|scheme| theirs.get(..scheme.len()).is_some_and(|front| front.eq_ignore_ascii_case(scheme)))
        .map(<[u8]>::len);
    let Some(scheme_size) = scheme_size else { return ours == theirs };
    let behind = &theirs[scheme_size..];
    let path = behind.iter().position(|octet| *octet == b'/').map_or(b"/".as_slice(), |at| &behind[at..]);
    ours == path
}

/// A disagreement that is known.
pub struct Explained {
    pub reader: Reader,
    pub what: What,
    /// Why it is right to read on as cmg does.
    pub reason: &'static str,
    is_it: fn(&Case<'_>) -> bool,
}

/// Every disagreement there may be.
pub const EXPLAINED: &[Explained] = &[
    Explained {
        reader: Reader::Llhttp,
        what: What::Refused,
        reason: "extensions of chunks: llhttp wants their grammar to the letter and refuses the blanks that \
                 RFC 9112 7.1.1 allows; cmg reads over visible octets up to the line's end, quoted texts \
                 closed, and passes none on",
        is_it: has_strange_extension,
    },
    Explained {
        reader: Reader::Llhttp,
        what: What::Refused,
        reason: "trailers that have not all come: cmg judges them when they are whole, and gives none before",
        is_it: |case| case.ours.end == End::Partial && has_begun_trailers(case),
    },
    bodiless(What::Refused),
    bodiless(What::Body),
    bodiless(What::Trailers),
    bodiless(What::End),
    Explained {
        reader: Reader::Llhttp,
        what: What::Keeps,
        reason: "Connection among the trailers: for llhttp it counts; RFC 9110 6.5.1 keeps framing and routing \
                 out of trailers, so cmg drops it",
        is_it: |case| case.ours.trailers.iter().any(|(name, _)| is(name, "connection")),
    },
    Explained {
        reader: Reader::Llhttp,
        what: What::Keeps,
        reason: "Proxy-Connection: for llhttp it counts as Connection does; no RFC knows it (RFC 9112 C.2.2), and \
                 cmg drops it",
        is_it: |case| case.ours.fields.iter().any(|(name, _)| is(name, "proxy-connection")),
    },
];

const fn bodiless(what: What) -> Explained {
    Explained {
        reader: Reader::Llhttp,
        what,
        reason: "1xx, 204 and 304 have no body, whatever they announce (RFC 9112 6.3); llhttp looks for one. cmg \
                 does not use such a connection again, but after a 304 with Content-Length (RFC 9110 8.6)",
        is_it: is_bodiless,
    }
}

fn is_bodiless(case: &Case<'_>) -> bool {
    let Case { kind, ours, .. } = case;
    let has = |name: &str| ours.fields.iter().any(|(held, _)| is(held, name));
    let is_allowed = ours.status == 304 && has("content-length") && !has("transfer-encoding");
    let announces = has("content-length") || has("transfer-encoding");
    *kind == Kind::Response
        && (ours.status < 200 || matches!(ours.status, 204 | 304))
        && announces
        && ours.body.is_empty()
        && (is_allowed || ours.keeps == Some(false))
}

/// Chunked, and llhttp read the head and a part of the body as we did before it stopped.
fn is_same_so_far(case: &Case<'_>) -> bool {
    let Case { ours, theirs, .. } = case;
    let is_chunked = ours.fields.iter().any(|(name, _)| is(name, "transfer-encoding"));
    is_chunked
        && theirs.has_head
        && is_same_list(&ours.fields, &theirs.fields)
        && ours.body.starts_with(&theirs.body)
}

fn has_strange_extension(case: &Case<'_>) -> bool {
    let End::Refused(error) = &case.theirs.end else { return false };
    let is_of_line = matches!(error.as_str(), "HPE_STRICT" | "HPE_INVALID_CHUNK_SIZE");
    is_of_line && case.bytes.contains(&b';') && is_same_so_far(case)
}

/// llhttp stopped at a field behind a body that both read the same.
fn has_begun_trailers(case: &Case<'_>) -> bool {
    let End::Refused(error) = &case.theirs.end else { return false };
    let of_fields = [
        "HPE_INVALID_HEADER_TOKEN",
        "HPE_LF_EXPECTED",
        "HPE_STRICT",
        "HPE_INVALID_TRANSFER_ENCODING",
        "HPE_INVALID_CONTENT_LENGTH",
        "HPE_UNEXPECTED_CONTENT_LENGTH",
    ];
    of_fields.contains(&error.as_str()) && is_same_so_far(case) && case.ours.body == case.theirs.body
}

fn is(name: &[u8], expected: &str) -> bool {
    name.eq_ignore_ascii_case(expected.as_bytes())
}

/// The row that explains a difference.
pub fn explain(case: &Case<'_>, what: What) -> Option<usize> {
    EXPLAINED.iter().position(|row| row.reader == case.reader && row.what == what && (row.is_it)(case))
}
