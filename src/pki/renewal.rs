//! The other side of [`Pki::renew`](super::Pki::renew): a key is made, the next certificate is asked for, and both
//! take the place of those before.
//!
//! Two files cannot be replaced in one step. Both are written beside their places once the certificate is there, the
//! key first: from then on they are to be used, and whoever finds them puts them in their places
//! ([`Pair::settle`]), if they belong together and nobody has put better there meanwhile. Before that nothing has
//! changed. Where one file holds both it is replaced whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::files::{KEY_MODE, PUBLIC_MODE, lock, wait, write_file};
use super::key::KeyKind;
use super::{Pair, PkiError, Serial};

/// A key that no certificate is in use for yet.
pub struct NewKey {
    key: KeyPair,
    request: Vec<u8>,
}

impl NewKey {
    /// Makes a key of the kind of `leaf`, an internal certificate in DER, and asks for what that says.
    ///
    /// # Errors
    /// It cannot be read, or the key cannot be made.
    pub fn like(leaf: &[u8]) -> Result<NewKey, PkiError> {
        let (_, leaf) =
            X509Certificate::from_der(leaf).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let key = KeyKind::of(&leaf).unwrap_or_default().make()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let names = leaf.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            params.subject_alt_names.push(match name {
                GeneralName::URI(uri) => SanType::URI((*uri).try_into()?),
                GeneralName::DNSName(name) => SanType::DnsName((*name).try_into()?),
                _ => continue,
            });
        }
        let request = params.serialize_request(&key)?.der().to_vec();
        Ok(NewKey { key, request })
    }

    /// PKCS#10.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn public(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }
}

impl Pair {
    /// Waits until no other process changes these files; until what it gives is dropped none does.
    ///
    /// # Errors
    /// What the system says.
    pub fn lock(&self) -> Result<fs::File, PkiError> {
        lock(folder(&self.key))
    }

    /// The same for a start, which changes nothing where there is nothing to [`settle`](Self::settle).
    ///
    /// # Errors
    /// What the system says; where nobody ever renewed, that there is no lock.
    pub fn wait(&self) -> Result<fs::File, PkiError> {
        if self.has_next() { self.lock() } else { wait(folder(&self.key)) }
    }

    /// The certificate that is in its place.
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_file(&self.certificate).ok()
    }

    /// Whether something stands beside them that [`settle`](Self::settle) is for.
    pub fn has_next(&self) -> bool {
        let Pair { certificate, key } = self.next();
        [certificate, key].iter().any(|file| file.symlink_metadata().is_ok())
    }

    /// Puts a chain and its key in their places. Whoever asks has the [`lock`](Self::lock).
    ///
    /// # Errors
    /// What the system says; then what was in place is whole, or [`settle`](Self::settle) has the rest to do.
    pub fn put(&self, chain: &[CertificateDer<'_>], key: &NewKey) -> Result<(), PkiError> {
        let (chain, key) = (chain.iter().map(|der| pem(der)).collect::<String>(), key.key.serialize_pem());
        if let Some(file) = self.one_file() {
            write_file(&file, (chain + &key).as_bytes(), KEY_MODE)?;
            sync(&file);
            return Ok(());
        }
        let next = self.next();
        let put = write_file(&next.key, key.as_bytes(), KEY_MODE)
            .and_then(|()| write_file(&next.certificate, chain.as_bytes(), PUBLIC_MODE))
            .and_then(|()| {
                // A renamed key whose certificate is lost would be none.
                sync(&next.key);
                sync(&next.certificate);
                self.take_next()
            });
        if put.is_err() && self.certified().is_some() {
            self.forget_next();
        }
        put
    }

    /// Finishes what was interrupted, at `now` in seconds since 1970: what stands beside takes its place if chain and
    /// key belong together, are good now and were made after what is in place, or that is not whole; otherwise it
    /// goes. Whether it took its place. Whoever asks has the [`lock`](Self::lock).
    ///
    /// # Errors
    /// What the system says.
    pub fn settle(&self, now: u64) -> Result<bool, PkiError> {
        if !self.has_next() {
            return Ok(false);
        }
        if self.one_file().is_some() || !self.is_next_better(now) {
            self.forget_next();
            return Ok(false);
        }
        self.take_next().map(|()| true)
    }

    fn is_next_better(&self, now: u64) -> bool {
        let mut next = self.next();
        if !next.key.exists() {
            // It is in its place already.
            next.key.clone_from(&self.key);
        }
        let Some((begin, end)) = next.certified().and_then(|next| life(next.cert.first()?)) else {
            return false;
        };
        let held = self.certified().and_then(|held| life(held.cert.first()?));
        // By hand may be put what ends earlier, or was made later.
        end > now && held.is_none_or(|held| held.0 <= begin && held.1 < end)
    }

    /// Both, if they belong together.
    fn certified(&self) -> Option<CertifiedKey> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate).ok()?.collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).ok()?;
        CertifiedKey::from_der(chain.ok()?, key, &default_provider()).ok()
    }

    /// The key first: beside it then stands a certificate without a key, which is known as begun. One rename must not
    /// reach the disk before the other.
    fn take_next(&self) -> Result<(), PkiError> {
        let next = self.next();
        for (from, to) in [(&next.key, &self.key), (&next.certificate, &self.certificate)] {
            match fs::rename(from, to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(PkiError::File { path: to.clone(), source }),
                Ok(()) => {}
            }
            sync(to);
        }
        Ok(())
    }

    fn forget_next(&self) {
        let Pair { certificate, key } = self.next();
        for file in [certificate, key] {
            let _ = fs::remove_file(file);
        }
        sync(&self.key);
    }

    fn next(&self) -> Pair {
        Pair { certificate: beside(&self.certificate, "next"), key: beside(&self.key, "next-key") }
    }

    /// Where one file holds both, by whatever paths.
    fn one_file(&self) -> Option<PathBuf> {
        let [certificate, key] = [&self.certificate, &self.key]
            .map(|file| fs::canonicalize(file).unwrap_or_else(|_| file.clone()));
        (certificate == key).then_some(certificate)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.{suffix}"))
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What was renamed in the folder of `file` reaches the disk before what comes then.
fn sync(file: &Path) {
    let _ = fs::File::open(folder(file)).and_then(|folder| folder.sync_all());
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// When a certificate in DER ends, in seconds since 1970.
pub fn not_after(leaf: &[u8]) -> Option<u64> {
    life(leaf).map(|(_, end)| end)
}

/// When a certificate in DER begins and ends.
fn life(leaf: &[u8]) -> Option<(u64, u64)> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let (begin, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    Some((u64::try_from(begin).ok()?, u64::try_from(end).ok()?))
}

/// When a certificate in DER is to be renewed, in seconds since 1970: at two thirds of its life and, so that not all
/// come at once, up to a twentieth of it earlier. `spread` is random.
pub fn renewal_due(leaf: &[u8], spread: u32) -> Option<u64> {
    let (begin, end) = life(leaf)?;
    let life = end.checked_sub(begin)?;
    let earlier = Duration::from_secs(life / 20).mul_f64(f64::from(spread) / f64::from(u32::MAX));
    begin.checked_add(life - life.div_ceil(3))?.checked_sub(earlier.as_secs())
}

/// Serial number of a certificate in DER, as tools print it.
pub fn serial_of(leaf: &[u8]) -> Option<Serial> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Some(Serial::of(leaf.raw_serial()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn leaf(life: u64) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1970, 1, 11);
        params.not_after = params.not_before + Duration::from_secs(life);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_or_somewhat_earlier() {
        let begin = 10 * DAY;
        for life in [90 * DAY, 12, 3] {
            let leaf = leaf(life);
            let (latest, earliest) = (renewal_due(&leaf, 0).unwrap(), renewal_due(&leaf, u32::MAX).unwrap());
            assert_eq!(latest, begin + life * 2 / 3, "{life}");
            assert_eq!(latest - earliest, life / 20, "{life}");
            assert_eq!(not_after(&leaf), Some(begin + life));
        }
        assert_eq!(renewal_due(b"no certificate", 0), None);
    }

    #[test]
    fn a_request_is_for_what_the_certificate_says_and_by_a_key_of_its_kind() {
        let key = NewKey::like(&leaf(DAY)).unwrap();
        let text = String::from_utf8_lossy(key.request()).into_owned();
        assert!(text.contains("a.example"));
        assert_ne!(key.public(), NewKey::like(&leaf(DAY)).unwrap().public());
    }

    /// A folder with a pair whose certificate begins on that day of 1970 and is good for so many days.
    struct Place {
        folder: tempfile::TempDir,
        pair: Pair,
    }

    const NOW: u64 = 100 * DAY;

    fn made(begin: u64, days: u64) -> (Vec<u8>, NewKey) {
        let key = NewKey::like(&leaf(DAY)).unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(begin * DAY);
        params.not_after = params.not_before + Duration::from_secs(days * DAY);
        (params.self_signed(&key.key).unwrap().der().to_vec(), key)
    }

    impl Place {
        fn new(certificate: &str, key: &str) -> Place {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            let place = Place { pair: Pair { certificate: path(certificate), key: path(key) }, folder };
            place.lay(&place.pair, &made(40, 90));
            place
        }

        fn lay(&self, pair: &Pair, (der, key): &(Vec<u8>, NewKey)) {
            if pair.one_file().is_some() {
                return fs::write(&pair.key, pem(der) + &key.key.serialize_pem()).unwrap();
            }
            fs::write(&pair.certificate, pem(der)).unwrap();
            fs::write(&pair.key, key.key.serialize_pem()).unwrap();
        }

        /// Whose the pair in place is, which is whole.
        fn held(&self) -> Vec<u8> {
            self.pair.certified().expect("what is in place belongs together").cert[0].to_vec()
        }

        fn files(&self) -> usize {
            fs::read_dir(self.folder.path()).unwrap().count()
        }
    }

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn whatever_interrupts_it_the_pair_in_use_is_whole() {
        for renamed in 0..2 {
            let place = Place::new("a.pem", "a.key");
            let (before, new) = (place.held(), made(99, 90));
            // The key alone is nothing yet.
            let next = place.pair.next();
            fs::write(&next.key, new.1.key.serialize_pem()).unwrap();
            assert!(!place.pair.settle(NOW).unwrap());
            assert!(place.held() == before && place.files() == 2);
            place.lay(&next, &new);
            if renamed == 1 {
                fs::rename(&next.key, &place.pair.key).unwrap();
                assert!(place.pair.certified().is_none());
            }
            assert!(place.pair.settle(NOW).unwrap(), "{renamed}");
            assert_eq!(place.held(), new.0, "{renamed}");
            assert!(!place.pair.settle(NOW).unwrap());
            assert_eq!(place.files(), 2);
        }
        let place = Place::new("a.pem", "a.key");
        let (der, key) = made(99, 90);
        place.pair.put(&[der.clone().into()], &key).unwrap();
        assert_eq!(place.held(), der);
        assert_eq!([&place.pair.certificate, &place.pair.key].map(|file| mode(file)), [0o644, 0o600]);
        assert_eq!(place.files(), 2);
    }

    #[test]
    fn what_is_left_takes_the_place_of_nothing_better() {
        let elsewhere = |mut pair: (Vec<u8>, NewKey)| {
            pair.1 = made(99, 90).1;
            pair
        };
        let rows = [
            ("put by hand since", made(99, 10), made(98, 90)),
            ("put by hand, and ends later", made(99, 300), made(98, 90)),
            ("has expired", made(0, 20), made(0, 90)),
            ("of two renewals", made(40, 90), elsewhere(made(99, 90))),
        ];
        for (what, held, next) in rows {
            let place = Place::new("a.pem", "a.key");
            place.lay(&place.pair, &held);
            place.lay(&place.pair.next(), &next);
            assert!(!place.pair.settle(NOW).unwrap(), "{what}");
            assert!(place.held() == held.0 && place.files() == 2, "{what}");
        }
    }

    #[test]
    fn a_file_that_holds_both_is_replaced_whole() {
        for is_linked in [false, true] {
            let place = Place::new("own.pem", "own.pem");
            let mut pair = place.pair.clone();
            if is_linked {
                pair.key = pair.key.with_file_name("link.pem");
                std::os::unix::fs::symlink("own.pem", &pair.key).unwrap();
            }
            let files = place.files();
            let (der, key) = made(99, 90);
            pair.put(&[der.clone().into()], &key).unwrap();
            assert_eq!(place.held(), der);
            assert_eq!(pair.certified().unwrap().cert[0].as_ref(), der);
            assert_eq!(mode(&place.pair.key), 0o600, "the key is in it");
            assert_eq!(place.files(), files);
        }
    }

    #[test]
    fn files_of_one_name_in_two_folders_and_names_that_are_alike_keep_apart() {
        let pair = Pair { certificate: "a".into(), key: "a".into() };
        let next = pair.next();
        assert_ne!(next.certificate, next.key);
        assert_eq!(folder(Path::new("a")), Path::new("."));
    }

    #[test]
    fn what_cannot_be_put_is_not_left() {
        let place = Place::new("a.pem", "a.key");
        let before = place.held();
        // Nothing can be written beside the certificate.
        fs::create_dir(place.pair.next().certificate).unwrap();
        let (der, key) = made(99, 90);
        assert!(place.pair.put(&[der.into()], &key).is_err());
        assert!(place.held() == before && !place.pair.next().key.exists());
    }
}
