//! What settings name, looked at before anything starts: files, certificates, keys, ports.
//!
//! A role's start and `cmg check` run the same code, so that whatever would keep a role from starting is
//! found by looking. Nothing is changed and nothing is left open by a review alone; `into_start` binds
//! the listeners that were not inherited and hands over what was read, so that a role starts with exactly what
//! was judged.
//!
//! Every mistake of every file is told, each with file, line, key, what was found and what was expected.
//! What text may stand in a file is the business of `settings`; what the machine gives is that of
//! `shard/probe.rs`.

mod across;
mod certificates;
mod connector;
mod gateway;
mod kept;
mod ports;
mod shut_out;
mod site;
mod tokens;
mod url;

pub use across::across;
pub use certificates::{INTERNAL, INTERNAL_FILES, INTERNAL_LIST, ListRead, list_text, sample_client};
pub use connector::{ConnectorReview, ConnectorStart, ConnectorWorks};
pub use gateway::{GatewayReview, GatewayStart, GatewayWorks, SERVER, ServerKeys};
pub use kept::upgrade_socket;
pub use ports::{Listener, holder_hint};
pub use shut_out::shut_out;
pub use site::{Origin, Site, SiteReview};
pub use tokens::{KeyFile, KeyUrl, SiteTokens, read_key_file};
pub use url::{Asked, judge_url};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::UnixTime;

use crate::metrics;
use crate::settings::{SettingsError, SettingsErrors, Source};

/// A settings file as it was read.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where it is.
    pub path: PathBuf,
    /// What messages call it.
    pub name: String,
    /// What stands in it; nothing where it could not be read.
    pub text: String,
}

impl Document {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file as a whole is the mistake.
    pub fn open(path: &Path) -> Result<Document, SettingsError> {
        let name = path.display().to_string();
        match read_bounded(path).map(String::from_utf8) {
            Ok(Ok(text)) => Ok(Document { path: path.to_owned(), name, text }),
            Ok(Err(error)) => {
                // As some editors save "Unicode".
                let is_wide = matches!(error.as_bytes(), [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]);
                let found = if is_wide { "text in UTF-16" } else { "octets that are no UTF-8" };
                Err(whole(&name, found, "a settings file: TOML, saved as UTF-8"))
            }
            Err(error) => Err(whole(&name, &trouble(&error), "a settings file that can be read")),
        }
    }

    /// For finding keys again.
    pub fn source(&self) -> Source<'_> {
        Source::new(&self.text, &self.name)
    }

    /// What paths in it start from.
    pub fn folder(&self) -> PathBuf {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        }
    }
}

fn whole(name: &str, found: &str, expected: &str) -> SettingsError {
    SettingsError {
        file: name.to_owned(),
        line: 0,
        column: 0,
        key: String::new(),
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}

/// Mistakes, and what will be one soon or may be one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What a start refuses.
    pub errors: Vec<SettingsError>,
    /// What a start says and goes on with.
    pub warnings: Vec<SettingsError>,
    /// What was looked at and is as it should be.
    pub fine: Vec<String>,
}

impl Findings {
    /// Takes up what was found elsewhere.
    pub fn join(&mut self, other: Findings) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
        self.fine.extend(other.fine);
    }

    /// In the order of files and lines.
    fn sort(&mut self) {
        for list in [&mut self.errors, &mut self.warnings] {
            list.sort_by_key(|one| (one.line, one.column));
            list.dedup();
        }
    }

    /// Whether there is no mistake in keys that begin so.
    fn is_sound(&self, key: &str) -> bool {
        !self.errors.iter().any(|error| error.key.starts_with(key))
    }

    /// The mistakes, if there are any.
    ///
    /// # Errors
    /// All of them.
    pub fn verdict(&self) -> Result<(), SettingsErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(SettingsErrors(self.errors.clone())) }
    }
}

/// Where one file is judged: its text for places, its folder for paths, and what was found so far.
struct Desk<'d> {
    document: &'d Document,
    folder: PathBuf,
    now: UnixTime,
    findings: Findings,
    /// When certificates that the role shows end.
    ends: Vec<metrics::Certificate>,
    /// What was read.
    reads: Vec<FileRead>,
}

/// A file that settings name, as it was read. Those that are looked after by themselves while a role runs are not
/// among them: lists, and the keys and the blocked ones of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRead {
    /// The key that names it, dotted.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
    /// Of what it holds; `None`: it cannot be read.
    pub sha256: Option<[u8; 32]>,
}

impl FileRead {
    fn new(key: &str, path: PathBuf, bytes: Option<&[u8]>) -> FileRead {
        let sha256 = bytes.map(|bytes| {
            let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
            digest.as_ref().try_into().expect("SHA-256 has 32 octets")
        });
        FileRead { key: key.to_owned(), path, sha256 }
    }

    /// Whether the two hold other things under keys that begin so.
    pub fn differ(one: &[FileRead], other: &[FileRead], key: &str) -> bool {
        let of = |reads| -> Vec<&FileRead> {
            let reads: &[FileRead] = reads;
            reads.iter().filter(|read| read.key.starts_with(key)).collect()
        };
        of(one) != of(other)
    }
}

impl<'d> Desk<'d> {
    fn new(document: &'d Document, now: UnixTime) -> Desk<'d> {
        let (findings, ends, reads) = Default::default();
        Desk { document, folder: document.folder(), now, findings, ends, reads }
    }

    fn error(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        let error = self.document.source().error(key, found, expected);
        self.findings.errors.push(error);
    }

    fn warn(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        let warning = self.document.source().error(key, found, expected);
        self.findings.warnings.push(warning);
    }

    fn fine(&mut self, text: impl Into<String>) {
        self.findings.fine.push(format!("{}: {}", self.document.name, text.into()));
    }

    /// What `key` names, read; `expected` is what should be in it.
    fn read(&mut self, key: &str, file: &Path, expected: &str) -> Option<Vec<u8>> {
        let bytes = self.peek(key, file, expected);
        self.reads.push(FileRead::new(key, self.folder.join(file), bytes.as_deref()));
        bytes
    }

    /// The same of a file that is looked after by itself.
    fn peek(&mut self, key: &str, file: &Path, expected: &str) -> Option<Vec<u8>> {
        let path = self.folder.join(file);
        match read_bounded(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(key, format!("{}: {}", shown(&path), trouble(&error)), expected);
                None
            }
        }
    }

    /// Whether nobody but owner and group can read a secret; the group is how a service account is let in.
    fn is_private(&self, file: &Path) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join(file);
        let mode = fs::metadata(&path).map_or(0, |facts| facts.permissions().mode() & 0o777);
        if mode & 0o007 == 0 { Ok(()) } else { Err(format!("{} with mode {mode:04o}", shown(&path))) }
    }
}

/// A path in a message.
fn shown(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

/// What the system says, in words that need no look into errno's table.
fn trouble(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to read it".to_owned(),
        io::ErrorKind::IsADirectory => "a folder, not a file".to_owned(),
        _ => error.to_string(),
    }
}

/// No settings, certificate or key is longer; a device or a disk image named by mistake is.
const FILE_SIZE_MAX: u64 = 16 << 20;

/// A file with a list, as it stands there.
///
/// # Errors
/// It cannot be read, or is longer than any list.
pub fn read_list(path: &Path) -> io::Result<Vec<u8>> {
    read_bounded(path).map_err(|error| io::Error::new(error.kind(), trouble(&error)))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    // A FIFO that nobody writes is as good as empty, and holds nobody up.
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    socket2::SockRef::from(&file).set_nonblocking(false)?;
    let facts = file.metadata()?;
    if facts.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(io::Error::other(format!("longer than {} MiB", FILE_SIZE_MAX >> 20)));
    }
    Ok(bytes)
}
