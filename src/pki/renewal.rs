//! The other side of [`Pki::renew`](super::Pki::renew): a key is made, the next certificate is asked for, and both
//! take the place of those before.
//!
//! Two files cannot be replaced in one step. The key is written beside its place before anything is asked, and the
//! certificate beside its own once it is there: from then on both are to be used, and whoever finds them puts them in
//! their places ([`NewKey::settle`]). Before that nothing has changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::files::{KEY_MODE, PUBLIC_MODE, write_file};
use super::key::KeyKind;
use super::{PkiError, Serial};

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

    /// Writes the key beside its place, for its owner alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn put_beside(&self, key: &Path) -> Result<(), PkiError> {
        // What was begun before is not to be mixed with this.
        let _ = fs::remove_file(beside(key));
        write_file(&beside(key), self.key.serialize_pem().as_bytes(), KEY_MODE)
    }

    /// Writes the chain beside its place, and puts both in their places.
    ///
    /// # Errors
    /// What the system says; then either nothing has changed, or [`settle`](Self::settle) has the rest to do.
    pub fn put_in_place(
        &self,
        chain: &[CertificateDer<'_>],
        certificate: &Path,
        key: &Path,
    ) -> Result<(), PkiError> {
        let text: String = chain.iter().map(|der| pem(der)).collect();
        write_file(&beside(certificate), text.as_bytes(), PUBLIC_MODE)?;
        NewKey::settle(certificate, key).map(drop)
    }

    /// Puts a pair in its place whose certificate stands beside it; whether there was one.
    ///
    /// # Errors
    /// What the system says.
    pub fn settle(certificate: &Path, key: &Path) -> Result<bool, PkiError> {
        if !beside(certificate).exists() {
            return Ok(false);
        }
        for place in [key, certificate] {
            match fs::rename(beside(place), place) {
                // It is in its place already, or another process puts it there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(PkiError::File { path: place.to_owned(), source }),
                Ok(()) => {}
            }
            let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
            // One rename must not reach the disk before the other.
            let _ = fs::File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        }
        Ok(true)
    }
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.next"))
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
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    u64::try_from(leaf.validity().not_after.timestamp()).ok()
}

/// When a certificate in DER is to be renewed, in seconds since 1970: at two thirds of its life and, so that not all
/// come at once, up to a twentieth of it earlier. `spread` is random.
pub fn renewal_due(leaf: &[u8], spread: u32) -> Option<u64> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let (begin, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let life = u64::try_from(end.checked_sub(begin)?).ok()?;
    let earlier = Duration::from_secs(life / 20).mul_f64(f64::from(spread) / f64::from(u32::MAX));
    u64::try_from(begin).ok()?.checked_add(life - life.div_ceil(3))?.checked_sub(earlier.as_secs())
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

    #[test]
    fn whatever_interrupts_it_the_pair_in_use_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        fs::write(&certificate, "old").unwrap();
        fs::write(&key, "old").unwrap();
        let read = || [&certificate, &key].map(|path| fs::read_to_string(path).unwrap());
        let new = NewKey::like(&leaf(DAY)).unwrap();
        new.put_beside(&key).unwrap();
        let mode = fs::metadata(beside(&key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Nothing was given: nothing changes.
        assert!(!NewKey::settle(&certificate, &key).unwrap());
        assert_eq!(read(), ["old", "old"]);
        // Given, and interrupted before, between and behind the renames.
        for renamed in 0..2 {
            new.put_beside(&key).unwrap();
            fs::write(beside(&certificate), "new").unwrap();
            if renamed == 1 {
                fs::rename(beside(&key), &key).unwrap();
            }
            assert!(NewKey::settle(&certificate, &key).unwrap(), "{renamed}");
            let [has, of] = read();
            assert!(has == "new" && of.contains("PRIVATE KEY"), "{renamed}");
            assert!(!NewKey::settle(&certificate, &key).unwrap());
        }
        new.put_beside(&key).unwrap();
        new.put_in_place(&[leaf(DAY).into()], &certificate, &key).unwrap();
        assert!(read()[0].starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
