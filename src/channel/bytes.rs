//! Reading numbers and short texts from a payload, in order. `None`: the payload is too short.

/// What is left of a payload.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'b>(pub &'b [u8]);

impl<'b> Bytes<'b> {
    pub fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text behind a one-byte length.
    pub fn text(&mut self) -> Option<&'b str> {
        let size = self.u8()?;
        std::str::from_utf8(self.take(usize::from(size))?).ok()
    }
}

/// Appends a text behind a one-byte length; what is longer is cut at a character's border.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, crate::limits::CHANNEL_TEXT_SIZE_MAX);
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// The front of `text`, at most `size_max` bytes, cut at a character's border.
pub(super) fn cut(text: &str, size_max: usize) -> &str {
    let mut size = text.len().min(size_max);
    while !text.is_char_boundary(size) {
        size -= 1;
    }
    &text[..size]
}
