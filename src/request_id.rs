//! The name of one request: made at the gateway, and the same in both logs, at the client and at the
//! origin.

use std::fmt;

/// 16 bytes that no other request of any gateway bears; shown as a GUID, lower case, in the order of
/// its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestId(pub [u8; 16]);

/// A [`RequestId`] as logs and fields show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIdText([u8; 36]);

impl RequestId {
    /// As logs and fields show it; allocates nothing.
    pub fn text(self) -> RequestIdText {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (place, byte) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        RequestIdText(text)
    }
}

impl RequestIdText {
    /// As octets of a field.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shown_in_the_five_groups_of_a_guid() {
        let id = RequestId(std::array::from_fn(|place| place as u8 * 17));
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(id.text().as_bytes(), id.to_string().as_bytes());
    }
}
