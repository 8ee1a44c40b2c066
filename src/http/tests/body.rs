use proptest::prelude::*;

use crate::http::*;
use crate::limits::*;

/// Reads `bytes` in pieces; data, and what the last step consumed of all.
fn read(reader: &mut BodyReader, bytes: &[u8], piece_size: usize) -> Result<(Vec<u8>, usize), BodyError> {
    let (mut all, mut total) = (Vec::new(), 0);
    for piece in bytes.chunks(piece_size) {
        let mut at = 0;
        loop {
            match reader.next(&piece[at..])? {
                Step::Data { consumed, data } => {
                    all.extend_from_slice(data);
                    at += consumed;
                }
                Step::More { consumed } => {
                    at += consumed;
                    break;
                }
                Step::End { consumed } => return Ok((all, total + at + consumed)),
            }
        }
        total += at;
    }
    Ok((all, total))
}

fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize), BodyError> {
    let mut reader = BodyReader::new(Framing::Chunked);
    let result = read(&mut reader, bytes, bytes.len().max(1))?;
    if reader.is_finished() { Ok(result) } else { Err(BodyError::CutShort) }
}

#[test]
fn a_body_by_length_ends_with_its_last_byte() {
    let mut reader = BodyReader::new(Framing::Length(5));
    assert_eq!(reader.remaining_hint(), Some(5));
    assert_eq!(reader.next(b""), Ok(Step::More { consumed: 0 }));
    assert_eq!(reader.next(b"abc"), Ok(Step::Data { consumed: 3, data: b"abc" }));
    assert_eq!(reader.remaining_hint(), Some(2));
    assert_eq!(reader.handle_eof(), Err(BodyError::CutShort));
    assert_eq!(reader.next(b"deGET /"), Ok(Step::Data { consumed: 2, data: b"de" }));
    assert!(reader.is_finished());
    assert_eq!(reader.next(b"GET /"), Ok(Step::End { consumed: 0 }));
    assert_eq!(reader.handle_eof(), Ok(()));
}

#[test]
fn no_body_is_finished_from_the_start() {
    for mut reader in [
        BodyReader::new(Framing::None),
        BodyReader::new(Framing::Length(0)),
        BodyReader::of_response(ResponseFraming::None),
    ] {
        assert!(reader.is_finished());
        assert_eq!(reader.remaining_hint(), Some(0));
        assert_eq!(reader.next(b"x"), Ok(Step::End { consumed: 0 }));
    }
}

#[test]
fn a_length_beyond_memory_is_only_a_number() {
    let mut reader = BodyReader::new(Framing::Length(u64::MAX));
    assert_eq!(reader.next(b"ab"), Ok(Step::Data { consumed: 2, data: b"ab" }));
    assert_eq!(reader.remaining_hint(), Some(u64::MAX - 2));
}

#[test]
fn a_body_until_close_ends_at_close() {
    let mut reader = BodyReader::of_response(ResponseFraming::UntilClose);
    assert_eq!(reader.next(b"ab"), Ok(Step::Data { consumed: 2, data: b"ab" }));
    assert!(!reader.is_finished());
    assert_eq!(reader.handle_eof(), Ok(()));
    assert!(reader.is_finished());
}

#[test]
fn chunks_are_taken_apart_wherever_they_are_split() {
    let bytes =
        b"4\r\nWiki\r\n00B;name=\"v;x\"; o\r\npedia in ch.\r\n1\r\n!\r\n0;e\r\nA: b \r\nC:\td\r\n\r\nGET";
    let bytes = String::from_utf8_lossy(bytes).replace("00B", "00C");
    for piece_size in 1..=bytes.len() {
        let mut reader = BodyReader::new(Framing::Chunked);
        let (data, consumed) = read(&mut reader, bytes.as_bytes(), piece_size).unwrap();
        assert_eq!(data, b"Wikipedia in ch.!");
        assert_eq!(consumed, bytes.len() - 3, "{piece_size}");
        let trailers: Vec<Field<'_>> = reader.trailers().collect();
        assert_eq!(trailers, [Field { name: b"A", value: b"b" }, Field { name: b"C", value: b"d" }]);
    }
}

#[test]
fn chunked_bodies_with_two_readings_are_refused() {
    for text in [
        "5\nabcde\r\n0\r\n\r\n",
        "5\r\nabcde\n0\r\n\r\n",
        "5\r\nabcde0\r\n\r\n",
        "5\r\nabcdef\r\n0\r\n\r\n",
        "5\r\nabcde\rX0\r\n\r\n",
        "5\r\nabcde\r0\r\n\r\n",
        "5\rXabcde\r\n0\r\n\r\n",
        "5\r\nabcd\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\r\n",
        "0\r\n\rX",
        "\r\n0\r\n\r\n",
        "+5\r\nabcde\r\n0\r\n\r\n",
        "-5\r\n",
        "0x5\r\nabcde\r\n0\r\n\r\n",
        "5 \r\nabcde\r\n0\r\n\r\n",
        " 5\r\nabcde\r\n0\r\n\r\n",
        "5\t;a\r\nabcde\r\n",
        "5_0\r\n",
        ";a\r\n",
        "5;a\nabcde\r\n0\r\n\r\n",
        "5;a\rb\r\nabcde\r\n",
        "5;a\0\r\nabcde\r\n",
        "5;\u{e9}\r\nabcde\r\n",
        "5\rabcde\r\n0\r\n\r\n",
        "00000000000000005\r\nabcde\r\n0\r\n\r\n",
        "10000000000000000\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
        "g\r\n",
        "0\r\nA\r\n\r\n",
        "0\r\n A: b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\r\n\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\nA: \0\r\n\r\n",
        "0\r\nA: b\rC: d\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\n\nA: b\r\n\r\n",
    ] {
        let result = chunked(text.as_bytes());
        assert!(result.is_err_and(|error| error != BodyError::CutShort), "{text:?}");
    }
}

#[test]
fn a_chunked_body_without_its_end_is_cut_short() {
    let text = b"5\r\nabcde\r\n0\r\nA: b\r\n\r\n";
    for end in 0..text.len() {
        let mut reader = BodyReader::new(Framing::Chunked);
        read(&mut reader, &text[..end], 64).unwrap();
        assert_eq!(reader.handle_eof(), Err(BodyError::CutShort), "{end}");
        assert_eq!(reader.trailers().count(), 0);
    }
}

#[test]
fn trailers_say_nothing_of_framing() {
    for field in
        ["Content-Length: 3", "content-length:", "Transfer-Encoding: chunked", "TRANSFER-ENCODING: gzip"]
    {
        let text = format!("1\r\nx\r\n0\r\nA: b\r\n{field}\r\n\r\n");
        assert_eq!(chunked(text.as_bytes()), Err(BodyError::Trailers), "{field}");
    }
    assert!(chunked(b"0\r\nContent-Length-Of: 3\r\nTransfer: x\r\n\r\n").is_ok());
}

#[test]
fn no_line_ends_within_a_quoted_extension() {
    for good in
        ["a", "a=b", "a=\"b\"", "a=\"b;c\"", "a=\"\\\"\"", "a=\"\\\\\"", "a=\"\";b=\"c\"", "a\\", " a = b"]
    {
        let text = format!("1;{good}\r\nx\r\n0;{good}\r\n\r\n");
        assert!(chunked(text.as_bytes()).is_ok(), "{good}");
    }
    for bad in ["\"", "a=\"b", "a=\"\\\"", "a=\"\";b=\"c", "a=\"b\r\nc\"", "a=\"\\\r\n\""] {
        let text = format!("1;{bad}\r\nx\r\n0\r\n\r\n");
        assert_eq!(chunked(text.as_bytes()), Err(BodyError::ChunkExtension), "{bad}");
    }
}

#[test]
fn the_largest_chunk_size_is_read_without_overflow() {
    let mut reader = BodyReader::new(Framing::Chunked);
    let step = reader.next(b"ffffFFFFffffFFFF\r\nab");
    assert_eq!(step, Ok(Step::Data { consumed: 20, data: b"ab" }));
}

#[test]
fn size_lines_trailers_and_overhead_are_bounded() {
    let line = |size: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(size - 2));
    assert!(chunked(line(CHUNK_LINE_SIZE_MAX).as_bytes()).is_ok());
    assert_eq!(chunked(line(CHUNK_LINE_SIZE_MAX + 1).as_bytes()), Err(BodyError::ChunkExtension));

    let trailers = |size: usize| format!("0\r\nA: {}\r\n\r\n", "b".repeat(size - 7));
    assert!(chunked(trailers(TRAILERS_SIZE_MAX).as_bytes()).is_ok());
    assert_eq!(chunked(trailers(TRAILERS_SIZE_MAX + 1).as_bytes()), Err(BodyError::TrailersTooLarge));
    let many = format!("0\r\n{}\r\n", "A:b\r\n".repeat(FIELD_COUNT_MAX + 1));
    assert_eq!(chunked(many.as_bytes()), Err(BodyError::Trailers));

    let wasteful = format!("1;{}\r\nx\r\n", "e".repeat(200)).repeat(1_000);
    assert_eq!(chunked(wasteful.as_bytes()), Err(BodyError::ChunkOverhead));
    let small = format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(100_000));
    assert_eq!(chunked(small.as_bytes()).unwrap().0.len(), 100_000);
}

#[test]
fn chunk_headers_are_plain_hexadecimal() {
    for (len, text) in [
        (1, "1\r\n"),
        (15, "F\r\n"),
        (16, "10\r\n"),
        (65_536, "10000\r\n"),
        (usize::MAX, "FFFFFFFFFFFFFFFF\r\n"),
    ] {
        let mut out = Vec::new();
        chunk_header(len, &mut out);
        assert_eq!(out, text.as_bytes());
    }
}

#[test]
#[should_panic(expected = "an empty chunk is the last one")]
fn an_empty_chunk_is_never_written() {
    chunk_header(0, &mut Vec::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_chunked_reads_back(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        piece_size in 1usize..700,
        with_trailer: bool,
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            chunk_header(chunk.len(), &mut bytes);
            bytes.extend_from_slice(chunk);
            chunk_end(&mut bytes);
        }
        let trailer = Field { name: b"X-Checksum", value: b"1" };
        last_chunk(&mut bytes, with_trailer.then_some(trailer).into_iter());
        let size = bytes.len();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let mut reader = BodyReader::new(Framing::Chunked);
        let (data, consumed) = read(&mut reader, &bytes, piece_size).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(consumed, size);
        prop_assert!(reader.is_finished());
        prop_assert_eq!(reader.trailers().next(), with_trailer.then_some(trailer));
    }

    #[test]
    fn a_length_takes_exactly_its_bytes(length in 0u64..2_000, sent in 0usize..2_500, piece_size in 1usize..600) {
        let bytes = vec![7; sent];
        let mut reader = BodyReader::new(Framing::Length(length));
        let (data, _) = read(&mut reader, &bytes, piece_size).unwrap();
        prop_assert_eq!(data.len() as u64, length.min(sent as u64));
        prop_assert_eq!(reader.remaining_hint(), Some(length - data.len() as u64));
        prop_assert_eq!(reader.is_finished(), sent as u64 >= length);
    }
}
