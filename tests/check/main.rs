//! Every mistake that settings, and what they name, can have: the role does not start, ends with 2 and
//! leaves everything as it was; and `cmg check` says the same before. With the real binary throughout.
#![allow(clippy::unwrap_used, missing_docs)]

mod across;
mod alone;
mod files;
mod machine;
mod mistakes;
mod url;
