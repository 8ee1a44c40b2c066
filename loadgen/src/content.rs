//! What a request and its answer carry so that any mix-up shows.
//!
//! Every request has an id: in its query (`id=`), and in the first line of its body. The origin repeats both, the path, the
//! length and a hash of the body at the front of its answer, and fills the rest with letters that depend on the id and on the
//! position: bytes of another answer, or of another place in the same answer, never fit.

use std::io::Write;

/// Length of the ids that `loadgen clients` makes; the origin takes any.
pub const ID_SIZE: usize = 16;
/// An id longer than this is cut by the origin.
pub const ID_SIZE_MAX: usize = 64;
/// Bytes of an answer when the query names no number.
pub const ANSWER_SIZE: u64 = 200;

/// A client-made id as text.
pub fn id_text(id: u64) -> [u8; ID_SIZE] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|index| DIGITS[(id >> (60 - 4 * index)) as usize & 15])
}

/// Letters that belong to one id, at any position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(u64);

impl Pattern {
    /// The pattern of an id.
    pub fn new(id: &[u8]) -> Self {
        let mut hash = Hash64::default();
        hash.update(id);
        Self(hash.finish())
    }

    fn word(self, index: u64) -> [u8; 8] {
        let mut word = self.0.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ word >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        word ^= word >> 32;
        ((word & 0x0f0f_0f0f_0f0f_0f0f) + 0x6161_6161_6161_6161).to_le_bytes()
    }

    /// Writes the letters of `position` onwards.
    pub fn fill(self, position: u64, out: &mut [u8]) {
        let (first, rest) = out.split_at_mut(head_size(position, out.len()));
        copy_from(first, &self.word(position / 8)[position as usize % 8..]);
        let mut index = (position + first.len() as u64) / 8;
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word(index));
            index += 1;
        }
        copy_from(words.into_remainder(), &self.word(index));
    }

    /// Whether `bytes` are the letters of `position` onwards.
    pub fn matches(self, position: u64, bytes: &[u8]) -> bool {
        let (first, rest) = bytes.split_at(head_size(position, bytes.len()));
        let mut index = (position + first.len() as u64) / 8;
        let mut right = self.word(position / 8)[position as usize % 8..].starts_with(first);
        let mut words = rest.chunks_exact(8);
        for word in &mut words {
            right &= word == self.word(index);
            index += 1;
        }
        right && self.word(index).starts_with(words.remainder())
    }
}

/// How many of the next `size` bytes stand before a word boundary.
fn head_size(position: u64, size: usize) -> usize {
    ((8 - position as usize % 8) % 8).min(size)
}

fn copy_from(out: &mut [u8], word: &[u8]) {
    let size = out.len();
    out.copy_from_slice(&word[..size]);
}

/// FNV-1a over little-endian 64-bit words with a fold after each, the length mixed in last: eight bytes a step, any pieces.
#[derive(Clone, Copy, Debug)]
pub struct Hash64 {
    state: u64,
    size: u64,
    pending: [u8; 8],
}

impl Default for Hash64 {
    fn default() -> Self {
        Self { state: 0xcbf2_9ce4_8422_2325, size: 0, pending: [0; 8] }
    }
}

impl Hash64 {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = self.size as usize % 8;
        self.size += bytes.len() as u64;
        if held > 0 {
            let taken = bytes.len().min(8 - held);
            self.pending[held..held + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if held + taken < 8 {
                return;
            }
            self.mix(u64::from_le_bytes(self.pending));
        }
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes(word.try_into().expect("chunks of eight")));
        }
        self.pending[..words.remainder().len()].copy_from_slice(words.remainder());
    }

    /// How many bytes were taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hash of all bytes taken.
    pub fn finish(mut self) -> u64 {
        let held = self.size as usize % 8;
        self.pending[held..].fill(0);
        self.mix(u64::from_le_bytes(self.pending));
        self.mix(self.size);
        self.state
    }

    fn mix(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.state ^= self.state >> 32;
    }
}

/// A body with a fixed front and a fixed end, and letters between them: what a real answer looks like, in every byte known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its first bytes.
    pub lead: &'static [u8],
    /// Its last bytes.
    pub tail: &'static [u8],
    /// All of them; no less than lead and tail together.
    pub size: u64,
    /// Whose letters: of this file, so that they are the same for everybody, or of the request.
    pub file: Option<&'static str>,
}

impl Shape {
    /// Whether `bytes` stand at `position` of the body that answers the request `id`.
    pub fn matches(&self, id: &[u8], position: u64, bytes: &[u8]) -> bool {
        let end = position.saturating_add(bytes.len() as u64);
        if end > self.size {
            return false;
        }
        let at = |place: u64| usize::try_from(place.clamp(position, end) - position).unwrap_or(bytes.len());
        let (lead_size, tail_start) = (self.lead.len() as u64, self.size - self.tail.len() as u64);
        let (letters_from, letters_to) = (at(lead_size), at(tail_start));
        let is_part = |whole: &[u8], from: u64, part: &[u8]| {
            let rest = usize::try_from(from).ok().and_then(|from| whole.get(from..));
            part.is_empty() || rest.is_some_and(|rest| rest.starts_with(part))
        };
        is_part(self.lead, position, &bytes[..letters_from])
            && self.pattern(id).matches(position + letters_from as u64, &bytes[letters_from..letters_to])
            && is_part(self.tail, position.saturating_sub(tail_start), &bytes[letters_to..])
    }

    /// Its letters, when the request `id` asks for it.
    pub fn pattern(&self, id: &[u8]) -> Pattern {
        Pattern::new(self.file.map_or(id, str::as_bytes))
    }
}

/// Appends what the origin says, in `X-Load-Account`, of a body it took.
pub fn write_receipt(size: u64, hash: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "len={size} hash={hash:016x}");
}

/// What the origin says about a request, at the front of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account<'a> {
    /// From the query.
    pub id: &'a [u8],
    /// Without the query.
    pub path: &'a [u8],
    /// From the first line of the body, `-` when it has none.
    pub body: &'a [u8],
    /// Bytes of the request's body.
    pub size: u64,
    /// Hash of the request's body.
    pub hash: u64,
}

impl Account<'_> {
    /// Appends the account, `;` included. Octets that would break its form are escaped in the path.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id=");
        out.extend_from_slice(self.id);
        out.extend_from_slice(b" path=");
        write_path(self.path, out);
        out.extend_from_slice(b" body=");
        out.extend_from_slice(self.body);
        let _ = write!(out, " len={} hash={:016x};", self.size, self.hash);
    }
}

fn write_path(path: &[u8], out: &mut Vec<u8>) {
    for byte in path {
        match byte {
            b';' => out.extend_from_slice(b"%3B"),
            b' ' => out.extend_from_slice(b"%20"),
            _ => out.push(*byte),
        }
    }
}

/// The id in the first bytes of a body: `id=…` up to the end of the line, `-` when there is none.
pub fn body_id(start: &[u8]) -> &[u8] {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let id = line.strip_prefix(b"id=").unwrap_or_default();
    let id = &id[..id.len().min(ID_SIZE_MAX)];
    let is_clean = id.iter().all(|byte| byte.is_ascii_graphic() && *byte != b';');
    if id.is_empty() || !is_clean { b"-" } else { id }
}

/// The value of `name` in a query: `Some("")` for a name without a value.
pub fn query_value<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| match pair.strip_prefix(name)? {
        [] => Some(&pair[..0]),
        [b'=', value @ ..] => Some(value),
        _ => None,
    })
}

/// A decimal number: digits only, at most 19.
pub fn number(text: &[u8]) -> Option<u64> {
    let is_decimal = !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit);
    is_decimal.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pattern_is_the_same_in_any_pieces(id: u64, start in 0u64..64, cut in 0usize..200, size in 0usize..200) {
            let pattern = Pattern::new(&id_text(id));
            let mut whole = vec![0; size];
            pattern.fill(start, &mut whole);
            let cut = cut.min(size);
            let mut pieces = vec![0; size];
            pattern.fill(start, &mut pieces[..cut]);
            pattern.fill(start + cut as u64, &mut pieces[cut..]);
            prop_assert_eq!(&whole, &pieces);
            prop_assert!(pattern.matches(start + cut as u64, &whole[cut..]));
            if size >= 16 {
                prop_assert!(!Pattern::new(&id_text(id ^ 1)).matches(start, &whole));
                prop_assert!(!pattern.matches(start + 1, &whole));
            }
        }

        #[test]
        fn a_hash_is_the_same_in_any_pieces(bytes: Vec<u8>, cuts: Vec<u8>) {
            let mut whole = Hash64::default();
            whole.update(&bytes);
            let mut pieces = Hash64::default();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(usize::from(cut).min(rest.len()));
                pieces.update(piece);
                rest = after;
            }
            pieces.update(rest);
            prop_assert_eq!(whole.finish(), pieces.finish());
        }
    }

    #[test]
    fn a_shape_is_recognised_in_any_pieces_and_no_byte_of_it_may_differ() {
        let shape = Shape { lead: b"<lead>", tail: b"</end>", size: 64, file: None };
        let mut whole = vec![0; 64];
        shape.pattern(b"x").fill(0, &mut whole);
        whole[..6].copy_from_slice(shape.lead);
        whole[58..].copy_from_slice(shape.tail);
        for from in 0..=64 {
            for to in from..=64 {
                assert!(shape.matches(b"x", from as u64, &whole[from..to]), "{from}..{to}");
            }
        }
        for index in 0..64 {
            whole[index] ^= 1;
            assert!(!shape.matches(b"x", 0, &whole), "{index}");
            assert!(!shape.matches(b"x", index as u64, &whole[index..=index]), "{index}");
            whole[index] ^= 1;
        }
        assert!(!shape.matches(b"y", 0, &whole));
        whole.push(b'a');
        assert!(!shape.matches(b"x", 0, &whole));
    }

    #[test]
    fn a_body_names_its_request_on_its_first_line_only() {
        for (start, id) in [
            (&b"id=abc\nrest"[..], &b"abc"[..]),
            (b"id=abc", b"abc"),
            (b"id=\nid=abc", b"-"),
            (b"", b"-"),
            (b"other\nid=abc", b"-"),
            (b"id=a b", b"-"),
            (b"id=a;b", b"-"),
        ] {
            assert_eq!(body_id(start), id, "{}", start.escape_ascii());
        }
    }

    #[test]
    fn a_query_value_is_found_by_its_whole_name() {
        let query = b"MPLIST&xid=1&id=2&stall&bytes=30";
        assert_eq!(query_value(query, b"id"), Some(&b"2"[..]));
        assert_eq!(query_value(query, b"stall"), Some(&b""[..]));
        assert_eq!(query_value(query, b"byte"), None);
        assert_eq!(query_value(b"", b"id"), None);
    }

    #[test]
    fn a_number_has_digits_only() {
        for (text, value) in [
            ("0", Some(0)),
            ("1073741824", Some(1 << 30)),
            ("", None),
            ("+1", None),
            ("1 ", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text.as_bytes()), value, "{text}");
        }
    }
}
