//! Where a body ends: by length, by chunks, or at close.
//!
//! Looks at bytes the caller holds and answers with the data in them; chunks are taken apart here and
//! made anew at the next hop (`write.rs`). Nothing need be kept between calls but what was not consumed.

use super::head::{Field, Framing, ResponseFraming};
use super::scan::trim;
use crate::limits::{CHUNK_LINE_SIZE_MAX, CHUNK_OVERHEAD_SIZE_MAX, FIELD_COUNT_MAX, TRAILERS_SIZE_MAX};
use crate::refusal::Refusal;

/// How a body can be wrong; the connection it came on is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not 1 to 16 hexadecimal digits.
    #[error("malformed chunk size")]
    ChunkSize,
    /// A size line over [`CHUNK_LINE_SIZE_MAX`], with octets an extension cannot hold, or ended in a quoted text.
    #[error("malformed chunk extension")]
    ChunkExtension,
    /// No CRLF where one must be.
    #[error("chunk not ended by CRLF")]
    ChunkEnd,
    /// Framing outran the data by [`CHUNK_OVERHEAD_SIZE_MAX`].
    #[error("chunks too small for their framing")]
    ChunkOverhead,
    /// Trailers that are not fields, or that speak of framing.
    #[error("malformed trailers")]
    Trailers,
    /// Trailers over [`TRAILERS_SIZE_MAX`].
    #[error("trailers too large")]
    TrailersTooLarge,
    /// The peer closed before the end.
    #[error("body cut short")]
    CutShort,
}

impl BodyError {
    /// What the client of a request with this fault is told, where it can still be told anything.
    pub fn refusal(self) -> Refusal {
        Refusal::BadRequest
    }

    /// What the client is told when an origin's body has this fault and no head was passed on yet.
    pub fn origin_refusal(self) -> Refusal {
        Refusal::BadGateway
    }
}

/// What the bytes at hand hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// Some of the body.
    Data {
        /// Bytes to take from the front: framing before the data, and the data.
        consumed: usize,
        /// Never empty.
        data: &'b [u8],
    },
    /// Nothing more before further bytes arrive.
    More {
        /// Framing to take from the front; always all that was given.
        consumed: usize,
    },
    /// The body is complete; what follows belongs to the next message.
    End {
        /// Framing to take from the front.
        consumed: usize,
    },
}

/// ```text
/// Length ─ all ─▶ Finished          UntilClose ─ end of file ─▶ Finished
/// Size ─ ; ─▶ Extension ─ CR ─▶ SizeFeed ─ size > 0 ─▶ Chunk ─ all ─▶ ChunkReturn ─ CR ─▶ ChunkFeed ─ LF ─▶ Size
/// Size ─ CR ─▶ SizeFeed ─ size = 0 ─▶ TrailerStart ─ CR ─▶ LastFeed ─ LF ─▶ Finished
///                                     TrailerStart ─ other ─▶ Trailers ─ empty line ─▶ Finished
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length { remaining: u64 },
    UntilClose,
    Size { size: u64, line: u16 },
    Extension { size: u64, line: u16, quote: Quote },
    SizeFeed { size: u64, line: u16 },
    Chunk { remaining: u64 },
    ChunkReturn,
    ChunkFeed,
    TrailerStart,
    LastFeed,
    Trailers,
    Finished,
}

/// Where in a chunk's extension: a line that ends inside a quoted text would go on for a reader that takes
/// line ends in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    Outside,
    Inside,
    /// Behind a backslash.
    Escaped,
}

impl Quote {
    fn after(self, byte: u8) -> Quote {
        match (self, byte) {
            (Quote::Outside, b'"') | (Quote::Escaped, _) => Quote::Inside,
            (Quote::Outside, _) | (Quote::Inside, b'"') => Quote::Outside,
            (Quote::Inside, b'\\') => Quote::Escaped,
            (Quote::Inside, _) => Quote::Inside,
        }
    }
}

/// Reads one body, wherever the bytes happen to be split.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    /// Framing bytes not yet paid for by data.
    overhead: u32,
    /// Trailer lines; allocated only when there are any.
    trailers: Vec<u8>,
}

const _: () = assert!(std::mem::size_of::<BodyReader>() <= 64);
const _: () = assert!(CHUNK_LINE_SIZE_MAX < u16::MAX as usize);
const CHUNKS: State = State::Size { size: 0, line: 0 };

impl BodyReader {
    /// For the body of a request.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::in_state(State::Finished),
            Framing::Length(length) => Self::of_length(length),
            Framing::Chunked => Self::in_state(CHUNKS),
        }
    }

    /// For the body of a response.
    pub fn of_response(framing: ResponseFraming) -> Self {
        match framing {
            ResponseFraming::None => Self::in_state(State::Finished),
            ResponseFraming::Length(length) => Self::of_length(length),
            ResponseFraming::Chunked => Self::in_state(CHUNKS),
            ResponseFraming::UntilClose => Self::in_state(State::UntilClose),
        }
    }

    fn of_length(length: u64) -> Self {
        Self::in_state(if length == 0 { State::Finished } else { State::Length { remaining: length } })
    }

    fn in_state(state: State) -> Self {
        BodyReader { state, overhead: 0, trailers: Vec::new() }
    }

    /// Whether the body is complete. After the last byte of a body by length this holds at once.
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// So many bytes of a body by length passed elsewhere: at most what is still to come.
    pub fn pass(&mut self, count: u64) {
        let State::Length { remaining } = self.state else {
            assert!(count == 0, "only a body by length passes unread");
            return;
        };
        assert!(count <= remaining, "a body ends where its length says");
        *self = Self::of_length(remaining - count);
    }

    /// Bytes of the body still to come, where its length was declared.
    pub fn remaining_hint(&self) -> Option<u64> {
        match self.state {
            State::Length { remaining } => Some(remaining),
            State::Finished => Some(0),
            State::UntilClose
            | State::Size { .. }
            | State::Extension { .. }
            | State::SizeFeed { .. }
            | State::Chunk { .. }
            | State::ChunkReturn
            | State::ChunkFeed
            | State::TrailerStart
            | State::LastFeed
            | State::Trailers => None,
        }
    }

    /// The trailers, once the body is finished; unfiltered.
    pub fn trailers(&self) -> impl Iterator<Item = Field<'_>> {
        let lines = if self.is_finished() { self.trailers.as_slice() } else { &[] };
        lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let value = line[colon + 1..].strip_suffix(b"\r")?;
            Some(Field { name: &line[..colon], value: trim(value) })
        })
    }

    /// The peer will send no more.
    ///
    /// # Errors
    /// [`BodyError::CutShort`] unless the body is complete, or ends here by its framing.
    pub fn handle_eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Finished => {
                self.state = State::Finished;
                Ok(())
            }
            _ => Err(BodyError::CutShort),
        }
    }

    /// Reads on at the front of `bytes`; the caller takes away what is reported consumed.
    ///
    /// # Errors
    /// For framing that two readers could understand differently; after that the reader is useless.
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<Step<'b>, BodyError> {
        let mut consumed = 0;
        loop {
            let rest = &bytes[consumed..];
            match self.state {
                State::Finished => return Ok(Step::End { consumed }),
                _ if rest.is_empty() => return Ok(Step::More { consumed }),
                State::UntilClose => return Ok(Step::Data { consumed: bytes.len(), data: rest }),
                State::Length { remaining } | State::Chunk { remaining } => {
                    let data = self.take_data(rest, remaining);
                    return Ok(Step::Data { consumed: consumed + data.len(), data });
                }
                State::Trailers => consumed += self.take_trailer(rest)?,
                State::Size { .. }
                | State::Extension { .. }
                | State::SizeFeed { .. }
                | State::ChunkReturn
                | State::ChunkFeed
                | State::LastFeed => {
                    self.state = self.after(rest[0])?;
                    consumed += 1;
                }
                State::TrailerStart => {
                    // The first octet of a trailer is left for `take_trailer`.
                    self.state = if rest[0] == b'\r' { State::LastFeed } else { State::Trailers };
                    consumed += usize::from(rest[0] == b'\r');
                }
            }
        }
    }

    fn take_data<'b>(&mut self, rest: &'b [u8], remaining: u64) -> &'b [u8] {
        let size = usize::try_from(remaining).map_or(rest.len(), |remaining| remaining.min(rest.len()));
        let remaining = remaining - size as u64;
        self.state = match self.state {
            State::Length { .. } if remaining == 0 => State::Finished,
            State::Length { .. } => State::Length { remaining },
            _ if remaining == 0 => State::ChunkReturn,
            _ => State::Chunk { remaining },
        };
        &rest[..size]
    }

    /// The state after one octet of framing.
    fn after(&mut self, byte: u8) -> Result<State, BodyError> {
        match (self.state, byte) {
            (State::Size { size, line }, _) => after_size(size, line, byte),
            (State::Extension { size, line, quote: Quote::Outside }, b'\r') => {
                Ok(State::SizeFeed { size, line })
            }
            (State::Extension { size, line, quote }, b'\t' | 0x20..=0x7E)
                if line < CHUNK_LINE_SIZE_MAX as u16 =>
            {
                Ok(State::Extension { size, line: line + 1, quote: quote.after(byte) })
            }
            (State::Extension { .. }, _) => Err(BodyError::ChunkExtension),
            (State::SizeFeed { size, line }, b'\n') => self.begin_chunk(size, line),
            (State::ChunkReturn, b'\r') => Ok(State::ChunkFeed),
            (State::ChunkFeed, b'\n') => Ok(CHUNKS),
            (State::LastFeed, b'\n') => Ok(State::Finished),
            (_, _) => Err(BodyError::ChunkEnd),
        }
    }

    fn begin_chunk(&mut self, size: u64, line: u16) -> Result<State, BodyError> {
        let allowed = 16u64.saturating_add(size.saturating_mul(2));
        let overhead = (u64::from(self.overhead) + u64::from(line) + 4).saturating_sub(allowed);
        if overhead > CHUNK_OVERHEAD_SIZE_MAX {
            return Err(BodyError::ChunkOverhead);
        }
        self.overhead = u32::try_from(overhead).map_err(|_| BodyError::ChunkOverhead)?;
        Ok(if size == 0 { State::TrailerStart } else { State::Chunk { remaining: size } })
    }

    /// Keeps trailer bytes up to a line end; gives how many.
    fn take_trailer(&mut self, rest: &[u8]) -> Result<usize, BodyError> {
        let size = memchr::memchr(b'\n', rest).map_or(rest.len(), |feed| feed + 1);
        if self.trailers.len() + size > TRAILERS_SIZE_MAX {
            return Err(BodyError::TrailersTooLarge);
        }
        self.trailers.extend_from_slice(&rest[..size]);
        if self.trailers.ends_with(b"\n") && !self.trailers.ends_with(b"\r\n") {
            return Err(BodyError::Trailers);
        }
        if self.trailers.ends_with(b"\r\n\r\n") {
            check_trailers(&self.trailers)?;
            self.state = State::Finished;
        }
        Ok(size)
    }
}

/// `line` counts the octets of the size line so far; all of them digits here.
fn after_size(size: u64, line: u16, byte: u8) -> Result<State, BodyError> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if line > 0 => return Ok(State::SizeFeed { size, line }),
        b';' if line > 0 => {
            return Ok(State::Extension { size, line: line + 1, quote: Quote::Outside });
        }
        _ => return Err(BodyError::ChunkSize),
    };
    if line == 16 {
        return Err(BodyError::ChunkSize);
    }
    Ok(State::Size { size: size << 4 | u64::from(digit), line: line + 1 })
}

/// Trailers are read as strictly as a head's fields; their line ends are known to be right. One that speaks
/// of framing may not stand there (RFC 9110 6.5.1), and there are readers that would follow it.
fn check_trailers(trailers: &[u8]) -> Result<(), BodyError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_COUNT_MAX];
    match httparse::parse_headers(trailers, &mut fields) {
        Ok(httparse::Status::Complete((size, fields)))
            if size == trailers.len() && !fields.iter().any(|field| speaks_of_framing(field.name)) =>
        {
            Ok(())
        }
        Ok(_) | Err(_) => Err(BodyError::Trailers),
    }
}

fn speaks_of_framing(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
}
