//! Entry for fuzzers.

/// To come.
pub fn fuzz(_bytes: &[u8]) {}
