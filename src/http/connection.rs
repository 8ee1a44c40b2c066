//! The `Connection` field: what it says of the connection, and which fields it takes back.

use super::head::HeadError;
use super::scan::{is_token, trim};
use crate::limits::CONNECTION_TOKEN_COUNT_MAX;

/// What all `Connection` fields of a head say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTokens<'b> {
    has_close: bool,
    has_keep_alive: bool,
    has_upgrade: bool,
    count: u8,
    named: [&'b [u8]; CONNECTION_TOKEN_COUNT_MAX],
}

impl<'b> ConnectionTokens<'b> {
    /// Whether `close` was among them.
    pub fn has_close(&self) -> bool {
        self.has_close
    }

    /// Whether `keep-alive` was among them.
    pub fn has_keep_alive(&self) -> bool {
        self.has_keep_alive
    }

    /// Whether `upgrade` was among them.
    pub fn has_upgrade(&self) -> bool {
        self.has_upgrade
    }

    /// Whether they declare the field of this name hop-by-hop, besides those that always are.
    #[inline]
    pub fn names(&self, name: &[u8]) -> bool {
        self.named[..usize::from(self.count)].iter().any(|named| named.eq_ignore_ascii_case(name))
    }

    /// Takes in the value of one `Connection` field.
    pub(super) fn read(&mut self, value: &'b [u8]) -> Result<(), HeadError> {
        for token in value.split(|byte| *byte == b',').map(trim).filter(|token| !token.is_empty()) {
            self.take(token)?;
        }
        Ok(())
    }

    fn take(&mut self, token: &'b [u8]) -> Result<(), HeadError> {
        if token.eq_ignore_ascii_case(b"keep-alive") {
            self.has_keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"close") {
            self.has_close = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            self.has_upgrade = true;
        } else if !self.names(token) {
            let slot = self.named.get_mut(usize::from(self.count)).ok_or(HeadError::Connection)?;
            if !is_token(token) {
                return Err(HeadError::Connection);
            }
            *slot = token;
            self.count += 1;
        }
        Ok(())
    }
}
