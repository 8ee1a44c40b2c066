//! What a folder of certificates holds, for people and scripts. Only reads; makes nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::is_young;
use super::key::KeyKind;
use super::revoked::{AuthorityKind, Register, Revocation, Serial};
use super::{PkiError, nothing};

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// One of the two authorities.
    Authority,
    /// What gateways show to clients.
    Server,
    /// What clients show.
    Client,
    /// What roles show one another.
    Internal,
}

impl EntryKind {
    /// As a table spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            EntryKind::Authority => "authority",
            EntryKind::Server => "server",
            EntryKind::Client => "client",
            EntryKind::Internal => "internal",
        }
    }
}

/// Whether a certificate is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is.
    Good,
    /// It is, but in the last third of its life: the command that made it makes another.
    Ageing,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
    /// An authority made it that is not in this folder.
    Foreign,
    /// Its key is missing, or it cannot be read.
    Broken,
}

impl State {
    /// As a table spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Ageing => "ageing",
            State::Expired => "expired",
            State::Revoked => "revoked",
            State::Foreign => "foreign",
            State::Broken => "broken",
        }
    }
}

/// One certificate of the folder.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// What it is for.
    pub kind: EntryKind,
    /// Name of its file, without what stands behind the dot.
    pub name: String,
    /// Its file.
    pub certificate: PathBuf,
    /// Whether it is still good.
    pub state: State,
    /// The rest, where it can be read.
    #[serde(flatten)]
    pub facts: Option<Facts>,
}

/// What a certificate says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Its serial number.
    pub serial: Serial,
    /// Kind of its key; none for one that cmg does not make.
    #[serde(serialize_with = "key_text")]
    pub key: Option<KeyKind>,
    /// Good from here.
    pub not_before: Timestamp,
    /// Good until here.
    pub not_after: Timestamp,
}

fn key_text<S: serde::Serializer>(key: &Option<KeyKind>, to: S) -> Result<S::Ok, S::Error> {
    key.map(KeyKind::as_str).serialize(to)
}

/// Everything in a folder.
#[derive(Clone, Debug, Serialize)]
pub struct Inventory {
    /// Authorities first, then by kind and name.
    pub certificates: Vec<Entry>,
    /// In the order in which they were revoked; their files may be gone, or hold a successor.
    pub revoked: Vec<Revocation>,
}

impl Inventory {
    /// Looks through the folder.
    ///
    /// # Errors
    /// There is no authority in it, or a folder cannot be read.
    pub fn read(folder: &Path) -> Result<Inventory, PkiError> {
        let mut look = Look {
            register: Register::read(folder)?,
            authorities: HashMap::new(),
            now: SystemTime::now(),
            certificates: Vec::new(),
        };
        for authority in AuthorityKind::ALL {
            let file = folder.join(format!("{}.pem", authority.stem()));
            if file.exists() {
                look.add_authority(authority, file);
            }
        }
        if look.certificates.is_empty() {
            return Err(nothing(folder));
        }
        let kinds = [EntryKind::Server, EntryKind::Client, EntryKind::Internal];
        for (kind, name) in kinds.into_iter().zip(["server", "clients", "internal"]) {
            for file in certificates(&folder.join(name))? {
                look.add(kind, file);
            }
        }
        Ok(Inventory { certificates: look.certificates, revoked: look.register.revoked })
    }
}

/// Certificates of a folder by name; none when it does not exist.
fn certificates(folder: &Path) -> Result<Vec<PathBuf>, PkiError> {
    let wrong = |source| PkiError::File { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(wrong)?,
    };
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(wrong)?;
    // Hidden ones are halves of a write.
    paths.retain(|path| {
        path.extension().is_some_and(|extension| extension == "pem") && !stem(path).starts_with('.')
    });
    paths.sort_by_cached_key(|path| natural(&stem(path)));
    Ok(paths)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// So that `client-2` comes before `client-10`.
fn natural(name: &str) -> (String, u64, String) {
    let head = name.trim_end_matches(|sign: char| sign.is_ascii_digit());
    (head.to_owned(), name[head.len()..].parse().unwrap_or(0), name.to_owned())
}

struct Look {
    register: Register,
    /// By subject.
    authorities: HashMap<Vec<u8>, AuthorityKind>,
    now: SystemTime,
    certificates: Vec<Entry>,
}

impl Look {
    fn add_authority(&mut self, authority: AuthorityKind, file: PathBuf) {
        if let Ok(der) = CertificateDer::from_pem_file(&file)
            && let Ok((_, certificate)) = X509Certificate::from_der(&der)
        {
            self.authorities.insert(certificate.subject().as_raw().to_vec(), authority);
        }
        self.add(EntryKind::Authority, file);
    }

    fn add(&mut self, kind: EntryKind, file: PathBuf) {
        let der = CertificateDer::from_pem_file(&file).ok();
        let certificate = der.as_ref().and_then(|der| X509Certificate::from_der(der).ok());
        let has_key = file.with_extension("key").exists();
        let (state, facts) = match certificate {
            None => (State::Broken, None),
            Some((_, certificate)) => (self.state(&certificate, has_key), Some(facts(&certificate))),
        };
        self.certificates.push(Entry { kind, name: stem(&file), certificate: file, state, facts });
    }

    fn state(&self, certificate: &X509Certificate<'_>, has_key: bool) -> State {
        let Some(authority) = self.authorities.get(certificate.issuer().as_raw()) else {
            return State::Foreign;
        };
        let now = Timestamp::try_from(self.now).map_or(i64::MAX, Timestamp::as_second);
        if self.register.find(*authority, &Serial::of(certificate.raw_serial())).is_some() {
            State::Revoked
        } else if certificate.validity().not_after.timestamp() < now {
            State::Expired
        } else if !has_key {
            State::Broken
        } else if is_young(certificate, self.now) {
            State::Good
        } else {
            State::Ageing
        }
    }
}

fn facts(certificate: &X509Certificate<'_>) -> Facts {
    let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    Facts {
        serial: Serial::of(certificate.raw_serial()),
        key: KeyKind::of(certificate),
        not_before: time(certificate.validity().not_before.timestamp()),
        not_after: time(certificate.validity().not_after.timestamp()),
    }
}
