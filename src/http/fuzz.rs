//! What must hold for any bytes at all: a head or body that is taken reads the same at the next hop.

use super::{
    BodyReader, Field, FieldScratch, Framing, Parsed, RequestHead, ResponseFraming, ResponseHead, Step,
    chunk_end, chunk_header, forwarded_request_fields, forwarded_response_fields, forwarded_trailer_fields,
    is_field_value, is_host, is_target, is_token, last_chunk, parse_request, parse_response,
    write_content_length, write_end, write_field, write_request_line, write_status_line,
};
use crate::limits::HEAD_SIZE_MAX;

/// Reads `bytes` as a request, as a response and as a chunked body.
///
/// # Panics
/// When something is taken that reads otherwise after forwarding, or when it matters where the bytes
/// were split.
pub fn fuzz(bytes: &[u8]) {
    fuzz_request(bytes);
    fuzz_response(bytes, false);
    fuzz_response(bytes, true);
    fuzz_chunks(bytes);
}

fn fuzz_request(bytes: &[u8]) {
    let mut scratch = FieldScratch::new();
    match parse_request(bytes, &mut scratch) {
        Ok(Parsed::Complete { head, size }) => {
            check_lines(&bytes[..size]);
            check_fields(head.fields.iter());
            assert!(is_token(head.method) && is_target(head.target));
            assert!(head.host.is_empty() || is_host(head.host));
            for cut in [0, size / 2, size - 1] {
                assert_eq!(parse_request(&bytes[..cut], &mut FieldScratch::new()), Ok(Parsed::Partial));
            }
            check_forwarded_request(&head);
        }
        Ok(Parsed::Partial) => assert!(bytes.len() < HEAD_SIZE_MAX),
        Err(error) => assert!(error.refusal().status() >= 400),
    }
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

fn fuzz_response(bytes: &[u8], request_is_head: bool) {
    let mut scratch = FieldScratch::new();
    match parse_response(bytes, request_is_head, &mut scratch) {
        Ok(Parsed::Complete { head, size }) => {
            check_lines(&bytes[..size]);
            check_fields(head.fields.iter());
            check_forwarded_response(&head, request_is_head);
        }
        Ok(Parsed::Partial) => assert!(bytes.len() < HEAD_SIZE_MAX),
        Err(_) => {}
    }
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

fn read_chunks(bytes: &[u8], piece_size: usize) -> Outcome {
    let mut reader = BodyReader::new(Framing::Chunked);
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
    Ok(None)
}

fn fuzz_chunks(bytes: &[u8]) {
    let outcome = read_chunks(bytes, bytes.len().max(1));
    for piece_size in [1, 2 + usize::from(bytes.first().copied().unwrap_or(0) % 61)] {
        assert_eq!(read_chunks(bytes, piece_size), outcome, "split every {piece_size}");
    }
    if let Ok(Some(size)) = outcome.end {
        assert_eq!(read_chunks(&bytes[..size], size).end, Ok(Some(size)));
        check_rewritten(&outcome);
    }
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
    let again = read_chunks(&written, written.len());
    if again.end.is_err() {
        return; // A blank after each colon may take the trailers over their bound.
    }
    assert_eq!(again.end, Ok(Some(written.len())));
    assert_eq!(again.data, outcome.data);
    let kept = again.trailers.iter().map(|(name, value)| Field { name, value });
    assert!(forwarded_trailer_fields(fields).eq(kept));
}
