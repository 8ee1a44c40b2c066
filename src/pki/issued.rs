//! Internal certificates as they are made: one line each beside the authorities, so that whoever is revoked by name
//! is revoked with all that it ever had. A channel may stand under a certificate whose successor is in use.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use x509_parser::prelude::X509Certificate;

use super::PkiError;
use super::revoked::Serial;
use crate::limits::LISTED_BEYOND_END;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issued {
    /// Of the files that `cmg pki` makes of it, without what stands behind the dot.
    pub name: String,
    pub serial: Serial,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl Issued {
    pub(super) fn of(name: &str, certificate: &X509Certificate<'_>) -> Issued {
        let not_after = certificate.validity().not_after.timestamp();
        Issued { name: name.to_owned(), serial: Serial::of(certificate.raw_serial()), not_after }
    }

    /// Adds its line; nobody else writes there meanwhile.
    pub(super) fn write(&self, folder: &Path) -> Result<(), PkiError> {
        let path = path(folder);
        let text = serde_json::to_string(self)
            .map_err(|error| PkiError::Unusable { path: path.clone(), reason: error.to_string() })?;
        let append = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            // A line that a crash cut must not swallow this one: a blank line is passed over.
            file.write_all(format!("\n{text}\n").as_bytes())?;
            file.sync_data()
        };
        append().map_err(|source| PkiError::File { path: path.clone(), source })
    }

    /// All of one name.
    pub(super) fn read(folder: &Path, name: &str) -> Result<Vec<Issued>, PkiError> {
        Ok(Issued::read_all(folder)?.into_iter().filter(|one| one.name == name).collect())
    }

    /// All of them. What a crash left half written is passed over: it was given to nobody.
    pub(super) fn read_all(folder: &Path) -> Result<Vec<Issued>, PkiError> {
        let path = path(folder);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(PkiError::File { path, source }),
        };
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Whether anybody may believe it at `now`, in seconds since 1970.
    pub(super) fn is_good(&self, now: i64) -> bool {
        now <= self.not_after
    }

    /// Whether it ended so long ago that nobody believes it whose clock is late: no list need say so.
    pub(super) fn is_long_over(&self, now: i64) -> bool {
        let beyond = i64::try_from(LISTED_BEYOND_END.as_secs()).unwrap_or(i64::MAX);
        now > self.not_after.saturating_add(beyond)
    }
}

/// Where they stand.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("issued.jsonl")
}
