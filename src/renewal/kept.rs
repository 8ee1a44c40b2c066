//! The list of revoked internal certificates on disk, so that a role that starts knows it before anybody tells it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::pki::{PUBLIC_MODE, write_file};
use crate::transport::Internal;

/// See the file's head. Its file is nobody else's; one thread writes at a time.
#[derive(Debug)]
pub struct KeptList {
    /// Looked at and changed from a shard: nobody waits for a disk with it.
    file: Mutex<PathBuf>,
    /// Whoever writes has it.
    turn: Mutex<()>,
}

impl KeptList {
    /// In this file.
    pub fn new(file: PathBuf) -> Arc<KeptList> {
        Arc::new(KeptList { file: Mutex::new(file), turn: Mutex::new(()) })
    }

    fn file(&self) -> PathBuf {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// In this file from now on.
    pub fn is_in(&self, file: PathBuf) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }

    /// Takes what was kept, if there is something.
    pub fn load(&self, internal: &Internal) {
        let file = self.file();
        let Ok(bytes) = fs::read(&file) else { return };
        if bytes.is_empty() {
            // Of before such a file was removed. It may be another process's that is about to write there.
            tracing::info!(file = %file.display(), "the file is empty: no list was in force when it was written");
        } else if let Err(error) = internal.take_kept(&bytes) {
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
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, listed) = (self.file(), internal.listed());
        // The authority may be another, of which there is no list.
        if listed.bytes.is_empty() {
            return forget(&file);
        }
        let folder = file.parent().unwrap_or(Path::new("."));
        let written = fs::create_dir_all(folder)
            .and_then(|()| write_file(&file, &listed.bytes, PUBLIC_MODE).map_err(io::Error::other));
        if let Err(error) = written {
            let file = file.display();
            tracing::error!(%file, %error, "the list of revoked internal certificates could not be kept");
        }
    }
}

fn forget(file: &Path) {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %file.display(), %error, "a list that is in force no more stays kept");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use time::OffsetDateTime;

    use super::*;
    use crate::auth::ListFault;
    use crate::pki::Pki;
    use crate::transport::tls_config::Credential;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn internal(pki: &Pki) -> Arc<Internal> {
        let pair = pki.gateway("gw1").unwrap();
        let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        Internal::new(&[pki.internal_authority()], Credential { chain, key }).unwrap()
    }

    #[test]
    fn who_says_where_it_is_waits_for_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let internal = internal(&Pki::open(folder.path()).unwrap());
        // Stands still, as a disk may, until somebody writes there.
        let slow = folder.path().join("slow");
        assert!(std::process::Command::new("mkfifo").arg(&slow).status().unwrap().success());
        let kept = KeptList::new(slow.clone());
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| kept.load(&internal));
            // Opens as soon as it is being read.
            let writer = fs::OpenOptions::new().write(true).open(&slow).unwrap();
            scope.spawn(|| {
                let _turn = kept.turn.lock().unwrap();
                kept.is_in(folder.path().join("elsewhere"));
                tell.send(()).unwrap();
            });
            let waited = told.recv_timeout(PATIENCE);
            drop(writer);
            assert!(waited.is_ok(), "neither for who reads nor for who writes");
        });
        assert!(kept.file().ends_with("elsewhere"));
    }

    #[test]
    fn what_was_kept_counts_by_a_late_clock_too() {
        let folder = tempfile::tempdir().unwrap();
        let internal = internal(&Pki::open(folder.path()).unwrap());
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        let key = KeyPair::from_pem(&read("internal-ca.key")).unwrap();
        let begin = OffsetDateTime::now_utc() + Duration::from_secs(30 * 86_400);
        let list = CertificateRevocationListParams {
            this_update: begin,
            next_update: begin + Duration::from_secs(86_400),
            crl_number: SerialNumber::from(7),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_ca_cert_pem(&read("internal-ca.pem"), key).unwrap();
        let list = list.signed_by(&issuer).unwrap();
        assert!(matches!(internal.take_lists(list.der()), Err(ListFault::Future { .. })));
        let kept = KeptList::new(folder.path().join("internal.crl"));
        fs::write(kept.file(), list.der()).unwrap();
        kept.load(&internal);
        assert_eq!(internal.listed().bytes, list.der().as_ref());
    }

    #[test]
    fn where_there_is_no_list_none_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let internal = internal(&pki);
        let kept = KeptList::new(folder.path().join("state/internal.crl"));
        fs::create_dir(kept.file().parent().unwrap()).unwrap();
        fs::write(kept.file(), "").unwrap();
        kept.load(&internal);
        assert_eq!(internal.generation(), 0);
        for _ in 0..2 {
            kept.write(&internal);
            assert!(!kept.file().exists());
        }

        internal.take_lists(&fs::read(pki.sign_internal_list().unwrap()).unwrap()).unwrap();
        kept.write(&internal);
        assert_eq!(fs::read(kept.file()).unwrap(), internal.listed().bytes);
        let other = tempfile::tempdir().unwrap();
        internal.take_up(&self::internal(&Pki::open(other.path()).unwrap()));
        kept.write(&internal);
        assert!(!kept.file().exists(), "of the authority that it has now there is none");
    }
}
