//! Writing files so that a reader sees the old one or the new one, and a stranger never sees a key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use super::PkiError;

/// Owner alone.
pub const KEY_MODE: u32 = 0o600;
/// Everyone may read.
pub const PUBLIC_MODE: u32 = 0o644;

/// Writes a file whole or not at all: a temporary neighbour, created with its final rights so that a
/// key is never readable by others even for a moment, then a rename.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    put(path, bytes, mode, File::sync_all)
}

/// The same without waiting for the disk, for files by the thousand that can be made again.
pub(super) fn write_file_quickly(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    put(path, bytes, mode, |_| Ok(()))
}

/// Makes a folder and those above it; one that is there is fine.
pub fn make_folder(path: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// Removes what writers that were killed half way left in a folder. What a process that runs is writing stays: roles
/// put their next pair into these folders, and hold no lock of ours.
pub(super) fn sweep(folder: &Path) {
    let is_half = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let digits = name.rsplit('.').next().unwrap_or_default();
        name.starts_with('.')
            && !digits.is_empty()
            && digits.bytes().all(|digit| digit.is_ascii_digit())
            && !Path::new("/proc").join(digits).exists()
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for half in entries.map(|entry| entry.path()).filter(is_half) {
        let _ = fs::remove_file(half);
    }
}

/// Waits until nobody else changes the folder; until the file is dropped nobody else does.
pub fn lock(folder: &Path) -> Result<File, PkiError> {
    lock_by(folder, true)
}

/// The same for whoever only reads: where the folder was never locked nothing is made, and there is nobody to wait for.
pub(super) fn wait(folder: &Path) -> Result<File, PkiError> {
    lock_by(folder, false)
}

fn lock_by(folder: &Path, is_made: bool) -> Result<File, PkiError> {
    let path = folder.join(".lock");
    let mut options = OpenOptions::new();
    // Not what somebody let the name lead to, and nothing of it.
    options.write(true).create(is_made).truncate(false).custom_flags(libc::O_NOFOLLOW);
    let locked = options.open(&path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| PkiError::File { path, source })
}

fn put(path: &Path, bytes: &[u8], mode: u32, settle: fn(&File) -> io::Result<()>) -> Result<(), PkiError> {
    let temporary = neighbour(path);
    let written = write_new(&temporary, bytes, mode, settle).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        PkiError::File { path: path.to_owned(), source }
    })
}

fn neighbour(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", process::id()))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, settle: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = match options.open(path) {
        // Left by an earlier process with our id that was killed half way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)?
        }
        opened => opened?,
    };
    file.write_all(bytes)?;
    settle(&file)
}
