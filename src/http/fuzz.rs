//! What must hold for any bytes at all: a head or body that is taken reads the same at the next hop.

use super::{
    BodyError, BodyReader, Field, FieldScratch, Framing, HeadError, Parsed, RequestHead, ResponseFraming,
    ResponseHead, Step, chunk_end, chunk_header, forwarded_request_fields, forwarded_response_fields,
    forwarded_trailer_fields, is_field_value, is_host, is_target, is_token, is_tunnel_protocol, last_chunk,
    parse_request, parse_response, write_content_length, write_end, write_field, write_request_line,
    write_status_line,
};
use crate::limits::{FIELD_COUNT_MAX, HEAD_SIZE_MAX};

/// `bytes` as a request's head.
///
/// # Panics
/// When it matters how the bytes arrived, when another reader would see another end or another body, or
/// when a head that is taken reads otherwise after forwarding.
pub fn request_head(bytes: &[u8]) {
    let mut scratch = FieldScratch::new();
    let parsed = parse_request(bytes, &mut scratch);
    check_arrival(bytes, &verdict(&parsed), |part| verdict(&parse_request(part, &mut FieldScratch::new())));
    match parsed {
        Ok(Parsed::Complete { head, size }) => {
            check_lines(&bytes[..size]);
            check_fields(head.fields.iter());
            check_request_with_httparse(bytes, &head, size);
            assert!(is_token(head.method) && is_target(head.target));
            assert!(head.host.is_empty() || is_host(head.host));
            assert_eq!(lenient_framing(&bytes[..size]), Some(head.framing));
            assert!(!head.expect_continue || head.framing.has_body());
            if let Some(protocol) = head.upgrade {
                assert!(is_tunnel_protocol(protocol) && head.connection.has_upgrade());
                assert!(head.method == b"GET" && head.framing == Framing::None);
            }
            for field in forwarded_request_fields(&head) {
                assert!(!stays_here(field.name) && !claims_identity(field.name), "{:?}", field.name);
                assert!(!head.connection.names(field.name));
            }
            check_forwarded_request(&head);
        }
        Ok(Parsed::Partial) => assert!(bytes.len() < HEAD_SIZE_MAX),
        Err(error) => assert!(matches!(error.refusal().status(), 400 | 431), "{error}"),
    }
}

/// `bytes` as a response's head, to HEAD and to another method.
///
/// # Panics
/// As [`request_head`], and when a response that cannot have a body is given one.
pub fn response_head(bytes: &[u8]) {
    response(bytes, false);
    response(bytes, true);
}

fn response(bytes: &[u8], request_is_head: bool) {
    let mut scratch = FieldScratch::new();
    let parsed = parse_response(bytes, request_is_head, &mut scratch);
    let again = |part: &[u8]| verdict(&parse_response(part, request_is_head, &mut FieldScratch::new()));
    check_arrival(bytes, &verdict(&parsed), again);
    match parsed {
        Ok(Parsed::Complete { head, size }) => {
            check_lines(&bytes[..size]);
            check_fields(head.fields.iter());
            assert!((100..600).contains(&head.status));
            check_response_framing(&bytes[..size], &head, request_is_head);
            assert!(head.upgrade.is_none_or(is_tunnel_protocol) && !head.switches_to(b"h2c"));
            for field in forwarded_response_fields(&head) {
                assert!(
                    !stays_here(field.name) || folded(field.name) == "host" || folded(field.name) == "expect"
                );
                assert!(!folded(field.name).starts_with("x-cmg-") && !head.connection.names(field.name));
            }
            check_forwarded_response(&head, request_is_head);
        }
        Ok(Parsed::Partial) => assert!(bytes.len() < HEAD_SIZE_MAX),
        Err(error) => assert_eq!(error.origin_refusal().status(), 502),
    }
}

/// What reading came to, without what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Whole(usize),
    Partial,
    Wrong(HeadError),
}

fn verdict<T>(parsed: &Result<Parsed<T>, HeadError>) -> Verdict {
    match parsed {
        Ok(Parsed::Complete { size, .. }) => Verdict::Whole(*size),
        Ok(Parsed::Partial) => Verdict::Partial,
        Err(error) => Verdict::Wrong(*error),
    }
}

/// A head that arrives in pieces is unfinished until it is what it is as a whole.
fn check_arrival(bytes: &[u8], whole: &Verdict, again: impl Fn(&[u8]) -> Verdict) {
    let step = (bytes.len() / 24).max(1);
    let end = if let Verdict::Whole(size) = whole { *size } else { bytes.len() };
    for cut in (0..bytes.len()).step_by(step).chain([end.saturating_sub(1), end]) {
        let part = again(&bytes[..cut]);
        assert!(part == *whole || part == Verdict::Partial, "{part:?} after {cut} bytes, then {whole:?}");
        assert!(!matches!(whole, Verdict::Whole(size) if (cut < *size) != (part == Verdict::Partial)));
    }
}

fn check_request_with_httparse(bytes: &[u8], head: &RequestHead<'_, '_>, size: usize) {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_COUNT_MAX];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(size)));
    assert_eq!(request.method.map(str::as_bytes), Some(head.method));
    assert!(request.path.is_some_and(|path| path.as_bytes().ends_with(head.target) || head.target == b"/"));
    assert!(request.headers.iter().map(|field| field.value).eq(head.fields.iter().map(|field| field.value)));
}

/// Framing as a reader sees it that takes any line end, blanks around names, `_` for `-`, and the last
/// of several. `None`: it is told two things.
fn lenient_framing(head: &[u8]) -> Option<Framing> {
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for line in head.split(|byte| matches!(byte, b'\n' | b'\r')).skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        match folded(line[..colon].trim_ascii()).as_str() {
            "content-length" if line[..colon].contains(&b'-') => lengths.push(value),
            "transfer-encoding" if line[..colon].contains(&b'-') => codings.push(value),
            _ => {}
        }
    }
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Some(Framing::None),
        ([length], []) => Some(Framing::Length(std::str::from_utf8(length).ok()?.parse().ok()?)),
        ([], [coding]) => coding.eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked),
        _ => None,
    }
}

fn check_response_framing(bytes: &[u8], head: &ResponseHead<'_, '_>, request_is_head: bool) {
    let seen = lenient_framing(bytes).expect("one reading only");
    let is_bare = request_is_head || head.status < 200 || matches!(head.status, 204 | 304);
    let expected = match seen {
        _ if is_bare => ResponseFraming::None,
        Framing::None => ResponseFraming::UntilClose,
        Framing::Length(length) => ResponseFraming::Length(length),
        Framing::Chunked => ResponseFraming::Chunked,
    };
    assert_eq!(head.framing, expected);
    assert_eq!(head.content_length, if let Framing::Length(length) = seen { Some(length) } else { None });
    assert!(!(head.keep_alive && head.framing == ResponseFraming::UntilClose), "nobody could tell its end");
}

/// A name as an origin may spell it for its application.
fn folded(name: &[u8]) -> String {
    let fold = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() as char } else { '-' };
    name.iter().map(fold).collect()
}

/// Fields about one hop, or written anew by each.
fn stays_here(name: &[u8]) -> bool {
    let hop = ["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "proxy", "http2-settings"];
    let name = folded(name);
    hop.contains(&name.as_str())
        || name.starts_with("proxy-")
        || matches!(name.as_str(), "content-length" | "host" | "expect")
}

/// Fields by which an origin would believe somebody's word about who asks.
fn claims_identity(name: &[u8]) -> bool {
    let name = folded(name);
    let beginnings = [
        "client-cert",
        "ssl-client",
        "x-forwarded",
        "x-cmg-",
        "x-ssl-",
        "x-http-method",
        "x-client-",
        "x-original-",
        "x-remote-",
        "x-ms-client-principal",
        "remote-",
        "ms-aspnetcore-",
    ];
    matches!(
        name.as_str(),
        "forwarded" | "x-real-ip" | "true-client-ip" | "x-cluster-client-ip" | "x-method-override"
    ) || beginnings.iter().any(|beginning| name.starts_with(beginning))
}

fn check_forwarded_request(head: &RequestHead<'_, '_>) {
    let mut written = Vec::new();
    write_request_line(&mut written, head.method, b"", head.target);
    write_field(&mut written, b"Host", b"origin.example");
    match head.framing {
        Framing::None => {}
        Framing::Length(length) => write_content_length(&mut written, length),
        Framing::Chunked => write_field(&mut written, b"Transfer-Encoding", b"chunked"),
    }
    forwarded_request_fields(head).for_each(|field| write_field(&mut written, field.name, field.value));
    write_end(&mut written);
    if written.len() > HEAD_SIZE_MAX || head.fields.iter().len() > 97 {
        return; // One blank after each colon, and what is added here, may outgrow the bounds.
    }
    let mut scratch = FieldScratch::new();
    let Ok(Parsed::Complete { head: again, size }) = parse_request(&written, &mut scratch) else {
        panic!("forwarded head is not a head");
    };
    assert_eq!(size, written.len());
    assert_eq!((again.method, again.target, again.framing), (head.method, head.target, head.framing));
    assert!(again.keep_alive && !again.expect_continue && again.upgrade.is_none());
    assert!(forwarded_request_fields(head).eq(forwarded_request_fields(&again)));
}

fn check_forwarded_response(head: &ResponseHead<'_, '_>, request_is_head: bool) {
    let mut written = Vec::new();
    write_status_line(&mut written, head.status, head.reason);
    if let Some(length) = head.content_length {
        write_content_length(&mut written, length);
    }
    if head.framing == ResponseFraming::Chunked {
        write_field(&mut written, b"Transfer-Encoding", b"chunked");
    }
    forwarded_response_fields(head).for_each(|field| write_field(&mut written, field.name, field.value));
    write_end(&mut written);
    if written.len() > HEAD_SIZE_MAX || head.fields.iter().len() > 97 {
        return;
    }
    let mut scratch = FieldScratch::new();
    let Ok(Parsed::Complete { head: again, size }) = parse_response(&written, request_is_head, &mut scratch)
    else {
        panic!("forwarded head is not a head");
    };
    assert_eq!(size, written.len());
    assert_eq!((again.status, again.reason, again.framing), (head.status, head.reason, head.framing));
    assert_eq!(again.content_length, head.content_length);
    assert!(forwarded_response_fields(head).eq(forwarded_response_fields(&again)));
}

/// CR and LF stand only together, and the empty line only at the end.
fn check_lines(head: &[u8]) {
    let text = head.strip_suffix(b"\r\n\r\n").expect("a head ends with an empty line");
    let mut lines = text.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let line = if lines.peek().is_some() { line.strip_suffix(b"\r") } else { Some(line) };
        assert!(line.is_some_and(|line| !line.is_empty() && !line.contains(&b'\r')));
    }
}

fn check_fields<'b>(mut fields: impl Iterator<Item = Field<'b>>) {
    assert!(fields.all(|field| is_token(field.name) && is_field_value(field.value)));
}

/// How reading a body went: its data, its trailers, and the bytes it took (`None` while unfinished).
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    data: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    end: Result<Option<usize>, ()>,
}

/// `bytes` as a body: in chunks, by a length, until the peer closes; and as what a body is made of.
///
/// # Panics
/// When it matters how the bytes arrived, when another reader finds another end, or when a body that is
/// taken apart and made anew is not the same.
pub fn body(bytes: &[u8]) {
    let outcome = read(BodyReader::new(Framing::Chunked), bytes, bytes.len().max(1));
    for piece_size in [1, 2 + usize::from(bytes.first().copied().unwrap_or(0) % 61)] {
        let split = read(BodyReader::new(Framing::Chunked), bytes, piece_size);
        assert_eq!(split, outcome, "split every {piece_size}");
    }
    if let Ok(Some(size)) = outcome.end {
        assert_eq!(read(BodyReader::new(Framing::Chunked), &bytes[..size], size).end, Ok(Some(size)));
        check_chunks_with_httparse(&bytes[..size], &outcome.data);
        check_rewritten(&outcome);
    }
    check_own_chunks(bytes);
    check_known_ends(bytes);
}

fn read(mut reader: BodyReader, bytes: &[u8], piece_size: usize) -> Outcome {
    let mut data = Vec::new();
    let end = feed(&mut reader, bytes, piece_size, &mut data);
    assert_eq!(reader.is_finished(), matches!(end, Ok(Some(_))));
    assert_eq!(reader.handle_eof().is_ok(), reader.is_finished());
    let trailers = reader.trailers().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
    Outcome { data, trailers, end }
}

fn feed(
    reader: &mut BodyReader,
    bytes: &[u8],
    piece_size: usize,
    into: &mut Vec<u8>,
) -> Result<Option<usize>, ()> {
    let mut total = 0;
    for piece in bytes.chunks(piece_size) {
        let mut at = 0;
        loop {
            match reader.next(&piece[at..]).map_err(|_| ())? {
                Step::Data { consumed, data } => {
                    assert!(!data.is_empty() && consumed >= data.len());
                    into.extend_from_slice(data);
                    at += consumed;
                }
                Step::More { consumed } => {
                    assert_eq!(at + consumed, piece.len());
                    break;
                }
                Step::End { consumed } => return Ok(Some(total + at + consumed)),
            }
        }
        total += piece.len();
    }
    Ok(reader.is_finished().then_some(total))
}

/// A second reader finds the same data and the same end.
fn check_chunks_with_httparse(bytes: &[u8], data: &[u8]) {
    let mut at = 0;
    let mut found = Vec::new();
    loop {
        let parsed = httparse::parse_chunk_size(&bytes[at..]);
        let Ok(httparse::Status::Complete((line, size))) = parsed else { panic!("{parsed:?}") };
        at += line;
        if size == 0 {
            break;
        }
        let end = at + usize::try_from(size).expect("it lies in memory");
        found.extend_from_slice(&bytes[at..end]);
        assert_eq!(&bytes[end..end + 2], b"\r\n");
        at = end + 2;
    }
    assert_eq!(found, data);
    let mut fields = [httparse::EMPTY_HEADER; FIELD_COUNT_MAX];
    let parsed = httparse::parse_headers(&bytes[at..], &mut fields);
    assert!(matches!(parsed, Ok(httparse::Status::Complete((size, _))) if at + size == bytes.len()));
}

fn check_rewritten(outcome: &Outcome) {
    let mut written = Vec::new();
    if !outcome.data.is_empty() {
        chunk_header(outcome.data.len(), &mut written);
        written.extend_from_slice(&outcome.data);
        chunk_end(&mut written);
    }
    let fields = outcome.trailers.iter().map(|(name, value)| Field { name, value });
    check_fields(fields.clone());
    last_chunk(&mut written, forwarded_trailer_fields(fields.clone()));
    let again = read(BodyReader::new(Framing::Chunked), &written, written.len());
    if again.end.is_err() {
        return; // A blank after each colon may take the trailers over their bound.
    }
    assert_eq!(again.end, Ok(Some(written.len())));
    assert_eq!(again.data, outcome.data);
    let kept = again.trailers.iter().map(|(name, value)| Field { name, value });
    assert!(forwarded_trailer_fields(fields).eq(kept));
}

/// Chunks as we write them are read back, each as it was, and written again are the same octets. The
/// first octet of each piece says how long it is.
fn check_own_chunks(bytes: &[u8]) {
    let write = |pieces: &[&[u8]]| {
        let mut written = Vec::new();
        for piece in pieces {
            chunk_header(piece.len(), &mut written);
            written.extend_from_slice(piece);
            chunk_end(&mut written);
        }
        last_chunk(&mut written, std::iter::empty());
        written
    };
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while let Some((size, behind)) = rest.split_first() {
        let (piece, behind) = behind.split_at(behind.len().min(usize::from(*size)));
        pieces.extend((!piece.is_empty()).then_some(piece));
        rest = behind;
    }
    let written = write(&pieces);
    let mut reader = BodyReader::new(Framing::Chunked);
    let (mut heard, mut at) = (Vec::new(), 0);
    while let Ok(Step::Data { consumed, data }) = reader.next(&written[at..]) {
        heard.push(data);
        at += consumed;
    }
    if reader.is_finished() {
        assert_eq!(write(&heard), written);
    } else {
        assert_eq!(reader.next(&written[at..]), Err(BodyError::ChunkOverhead), "tiny chunks without end");
    }
}

/// By length, a body has as many bytes as declared and no more; until close, all of them.
fn check_known_ends(bytes: &[u8]) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let declared = usize::from(*first) * 3;
    let body = read(BodyReader::new(Framing::Length(declared as u64)), rest, usize::from(first % 7) + 1);
    let size = declared.min(rest.len());
    assert_eq!(body.data, rest[..size]);
    assert_eq!(body.end, Ok((size == declared).then_some(size)));

    let mut reader = BodyReader::of_response(ResponseFraming::UntilClose);
    let mut data = Vec::new();
    assert_eq!(feed(&mut reader, rest, 5, &mut data), Ok(None));
    assert_eq!((data.as_slice(), reader.handle_eof()), (rest, Ok(())));
}
