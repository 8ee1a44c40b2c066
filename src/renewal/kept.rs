//! The list of revoked internal certificates on disk, so that a role that starts knows it before anybody tells it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::pki::{PUBLIC_MODE, write_file};
use crate::transport::Internal;

/// See the file's head. Its file is nobody else's; one thread writes at a time.
#[derive(Debug)]
pub struct KeptList(Mutex<PathBuf>);

impl KeptList {
    /// In this file.
    pub fn new(file: PathBuf) -> Arc<KeptList> {
        Arc::new(KeptList(Mutex::new(file)))
    }

    fn file(&self) -> MutexGuard<'_, PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In this file from now on.
    pub fn is_in(&self, file: PathBuf) {
        *self.file() = file;
    }

    /// Takes what was kept, if there is something.
    pub fn load(&self, internal: &Internal) {
        let file = self.file();
        let Ok(bytes) = fs::read(&*file) else { return };
        if let Err(error) = internal.take_lists(&bytes) {
            tracing::warn!(file = %file.display(), %error, "the list that was kept cannot be used");
        }
    }

    /// Keeps the list in force, on a thread: a disk may take its time.
    pub fn keep(self: &Arc<Self>, internal: &Arc<Internal>) {
        let (kept, internal) = (self.clone(), internal.clone());
        let started =
            thread::Builder::new().name("keep-list".to_owned()).spawn(move || kept.write(&internal));
        if let Err(error) = started {
            tracing::error!(%error, "the list of revoked internal certificates could not be kept");
        }
    }

    /// The list that is in force when it is this one's turn: the last to write writes the newest.
    fn write(&self, internal: &Internal) {
        let file = self.file();
        let folder = file.parent().unwrap_or(Path::new("."));
        let listed = internal.listed();
        let written = fs::create_dir_all(folder)
            .and_then(|()| write_file(&file, &listed.bytes, PUBLIC_MODE).map_err(io::Error::other));
        if let Err(error) = written {
            let file = file.display();
            tracing::error!(%file, %error, "the list of revoked internal certificates could not be kept");
        }
    }
}
