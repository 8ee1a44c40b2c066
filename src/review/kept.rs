//! What else settings name: secrets in files, folders to write to, and the admin listener's protection.

use std::fs;
use std::path::{Path, PathBuf};

use super::certificates::Dated;
use super::{Desk, Document, FileRead, shown};
use crate::admin::{self, Wrong};
use crate::logs::access;
use crate::settings::{AccessLog, AdminSettings, LogSettings, SettingsErrors};
use crate::upgrade::{self, Inheritance, Outside, Post};

impl Desk<'_> {
    /// 32 octets of secret: the file holds exactly them, or 64 hex digits.
    pub(super) fn secret(&mut self, key: &str, file: &Path) -> Option<[u8; 32]> {
        let expected = "a file of 32 random octets, or of 64 hexadecimal digits (openssl rand -hex 32)";
        let bytes = self.read(key, file, expected)?;
        if let Err(found) = self.is_private(file) {
            self.warn(key, found, "mode 0600 (or 0640): who has this secret can read what clients were sent");
        }
        let secret = secret_of(&bytes);
        if secret.is_none() {
            let found = format!("{} with {} octets", shown(&self.folder.join(file)), bytes.len());
            self.error(key, found, expected);
        }
        secret
    }

    /// `[log]`: the folder of the access log's file must be there.
    pub(super) fn log(&mut self, log: &LogSettings) {
        let AccessLog::File(file) = &log.access_log else { return };
        let path = self.folder.join(file);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            self.error(
                "log.access_log",
                format!("{}: no folder {}", shown(&path), shown(folder)),
                "a folder that is there",
            );
        } else if path.is_dir() {
            self.error("log.access_log", format!("{}: a folder", shown(&path)), "the path of a file");
        }
    }

    /// `[admin]`: the protection of a listener off loopback and the place of the control socket, by the
    /// judgement of those who will use them.
    pub(super) fn admin(&mut self, admin: &AdminSettings) {
        let folder = self.folder.clone();
        let mut wrong = Vec::new();
        if let Some(protection) = &admin.protection {
            let pair = self.pair("admin.certificate", "admin.key", &protection.identity);
            if let Some(pair) = &pair {
                self.dates("admin.certificate", &protection.identity.chain, pair.leaf(), Dated::Error);
            }
            let token = folder.join(&protection.token_file);
            let bytes = super::read_bounded(&token).ok();
            self.reads.push(FileRead::new("admin.token_file", token, bytes.as_deref()));
            wrong.extend(admin::token(protection, &folder).err());
            if pair.is_some() && wrong.is_empty() {
                wrong.extend(admin::read(admin, &folder).err());
            }
        }
        let sockets = [("admin.socket", &admin.socket), ("admin.upgrade_socket", &admin.upgrade_socket)];
        let written = sockets.iter().filter_map(|&(key, path)| Some((key, folder.join(path.as_ref()?))));
        wrong.extend(written.filter_map(|(key, path)| admin::socket_fault(key, &path)));
        for Wrong { key, found, expected } in wrong {
            self.error(key, found, expected);
        }
    }

    /// A folder to write to; it is made when it is first needed.
    pub(super) fn state(&mut self, key: &str, folder: &Path) {
        let path = self.folder.join(folder);
        match fs::metadata(&path) {
            Ok(facts) if !facts.is_dir() => self.error(key, format!("{}: a file", shown(&path)), "a folder"),
            _ => {}
        }
    }
}

/// Opens what only a start may open: the access log's file, which is made, then the admin's listeners, its
/// control socket, and the one at which another process asks for this one's place.
pub(super) fn outside(
    document: &Document,
    admin: &AdminSettings,
    log: &LogSettings,
    inherited: &mut Inheritance,
) -> Result<Outside, SettingsErrors> {
    let error = |key: &str, found: String, expected: String| {
        SettingsErrors(vec![document.source().error(key, found, expected)])
    };
    let folder = document.folder();
    access::check(log, &folder)
        .map_err(|wrong| error("log.access_log", wrong.found, wrong.expected.to_owned()))?;
    let told = |wrong: Wrong| error(wrong.key, wrong.found, wrong.expected);
    let control = admin::default_socket(&document.path);
    let doors = admin::Doors::open(admin, &folder, &control, inherited).map_err(told)?;
    let (path, is_written) = (upgrade_socket(document, admin), admin.upgrade_socket.is_some());
    let post = if inherited.is_successor() || inherited.is_of_parent() {
        Post::later(path, is_written)
    } else {
        Post::bind(path, is_written).map_err(told)?
    };
    Ok(Outside { doors, post })
}

/// Where another process asks for the place of the role that these settings are for.
pub fn upgrade_socket(document: &Document, admin: &AdminSettings) -> PathBuf {
    let folder = document.folder();
    match &admin.upgrade_socket {
        Some(path) => folder.join(path),
        None => {
            let control = admin::default_socket(&document.path);
            upgrade::default_socket(&admin::control_socket(admin, &folder, &control))
        }
    }
}

fn secret_of(bytes: &[u8]) -> Option<[u8; 32]> {
    if let Ok(secret) = <[u8; 32]>::try_from(bytes) {
        return Some(secret);
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let octets: Option<Vec<u8>> =
        (0..32).map(|at| u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()).collect();
    octets?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_32_octets_or_64_digits() {
        let digits = "00ff".repeat(16);
        let rows: [(&[u8], bool); 7] = [
            (&[7; 32], true),
            (digits.as_bytes(), true),
            (&[digits.as_bytes(), b"\n"].concat(), true),
            (b"", false),
            (&[7; 31], false),
            (&[b'g'; 64], false),
            (&[b'+'; 64], false),
        ];
        for (bytes, good) in rows {
            assert_eq!(secret_of(bytes).is_some(), good, "{bytes:?}");
        }
    }
}
