//! What comes of a gateway's RENEWAL, as a connection point says it.
//!
//! ```text
//! 0 │ chain        given: as the issuer wrote it
//! 1 │ text         refused, or the issuer could not be asked
//! 2                nobody can be asked here
//! ```

use super::bytes::cut;
use crate::limits::{CHANNEL_TEXT_SIZE_MAX, RENEWED_SIZE_MAX};

/// See the file's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalAnswer<'b> {
    /// The chain, unchecked.
    Given(&'b [u8]),
    /// Why there is none.
    Refused(&'b str),
    /// No issuer is known there.
    Nobody,
}

impl<'b> RenewalAnswer<'b> {
    /// As a payload. A text longer than 255 bytes is cut; a chain that is too long is refused.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            RenewalAnswer::Given(chain) if chain.len() <= RENEWED_SIZE_MAX => [&[0], *chain].concat(),
            RenewalAnswer::Given(_) => RenewalAnswer::Refused("the chain is too long").encode(),
            RenewalAnswer::Refused(text) => [&[1], cut(text, CHANNEL_TEXT_SIZE_MAX).as_bytes()].concat(),
            RenewalAnswer::Nobody => vec![2],
        }
    }

    /// From a payload; `None` for everything that is not written so.
    pub fn parse(payload: &'b [u8]) -> Option<RenewalAnswer<'b>> {
        let (code, rest) = payload.split_first()?;
        match code {
            0 if rest.len() <= RENEWED_SIZE_MAX => Some(RenewalAnswer::Given(rest)),
            1 if rest.len() <= CHANNEL_TEXT_SIZE_MAX => {
                std::str::from_utf8(rest).ok().map(RenewalAnswer::Refused)
            }
            2 if rest.is_empty() => Some(RenewalAnswer::Nobody),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        for answer in [RenewalAnswer::Given(b"chain"), RenewalAnswer::Refused("no"), RenewalAnswer::Nobody] {
            assert_eq!(RenewalAnswer::parse(&answer.encode()), Some(answer));
        }
        let long = vec![0; RENEWED_SIZE_MAX + 1];
        assert!(matches!(
            RenewalAnswer::parse(&RenewalAnswer::Given(&long).encode()),
            Some(RenewalAnswer::Refused(_))
        ));
        let text = "é".repeat(200);
        let cut = RenewalAnswer::Refused(&text).encode();
        assert!(
            matches!(RenewalAnswer::parse(&cut), Some(RenewalAnswer::Refused(told)) if text.starts_with(told))
        );
        let rows: [&[u8]; 5] = [&[], &[2, 0], &[3], &[1, 0xFF], &[&[0][..], &long].concat()];
        for row in rows {
            assert_eq!(RenewalAnswer::parse(row), None);
        }
    }
}
