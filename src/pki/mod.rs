//! Certificates for a site that has no CA of its own: two small authorities and what they sign.
//!
//! The *site* authority signs what the internet sees: server certificates of gateways and client
//! certificates. The *internal* authority signs what gateways and connection points show each other.
//! They are apart because an internal identity must never pass for a client's, nor the reverse.
//! Judging certificates is `auth/`; this module only makes them, and every role takes others as well.
//!
//! A folder holds `ca.pem` and `ca.key`, `internal-ca.pem` and `internal-ca.key`, and pairs of
//! `NAME.pem` and `NAME.key` in `server/`, `clients/` and `internal/`. What is there is kept: a pair is
//! made anew only when it is incomplete, was revoked, has used up two thirds of its life, lacks a name it
//! should have, comes from another authority, or has another kind of key than was asked for.
//! `revoked.json` keeps what was revoked, `crl.pem` and `internal-crl.pem` are the lists signed of it, and
//! `issued.jsonl` has every internal certificate that was ever made.
//! Whatever interrupts a change, the folder can be used again; two changes at a time take turns.

mod authority;
mod files;
mod inventory;
mod issued;
mod key;
mod renewal;
mod revoked;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::auth::{InternalName, Renewable, internal_identity};
use crate::limits::{INTERNAL_LIST_LIFE, INTERNAL_LIST_SIZE_MAX, ISSUED_GOOD_MAX};
use authority::{Authority, Leaf};
pub use files::{KEY_MODE, PUBLIC_MODE, lock, make_folder, write_file};
pub use inventory::{Entry, EntryKind, Facts, Inventory, State};
use issued::Issued;
pub use key::KeyKind;
pub use renewal::{NewKey, not_after, renewal_due, serial_of};
use revoked::Register;
pub use revoked::{AuthorityKind, Reason, Revocation, Serial};

/// What goes wrong while certificates are made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One half of an authority is there and the other is not; making another would orphan all it signed.
    #[error("{present} is there but {missing} is not: put it back, or move the folder away to begin anew")]
    HalfAuthority {
        /// The file that was found.
        present: PathBuf,
        /// The file that was not.
        missing: PathBuf,
    },
    /// An authority's files cannot be understood.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An authority is there, and has another kind of key than was asked for.
    #[error(
        "{path} is there already, with {} key: leave --key out to keep it, or move the folder away to begin anew",
        found.map_or("another".to_owned(), |found| format!("a {found}"))
    )]
    OtherKey {
        /// Its certificate.
        path: PathBuf,
        /// What was asked for.
        wanted: KeyKind,
        /// What it has.
        found: Option<KeyKind>,
    },
    /// There is no authority.
    #[error("{0}: no certificates here: `cmg pki init` makes the authorities, --dir says where they are")]
    Nothing(PathBuf),
    /// No certificate goes by this name.
    #[error("{name:?} is no certificate in {folder}: `cmg pki list` names those there are")]
    Unknown {
        /// As asked for.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// More than one certificate goes by this name.
    #[error("{name:?} could be any of {}: give the file", files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "))]
    Several {
        /// As asked for.
        name: String,
        /// Those with this name.
        files: Vec<PathBuf>,
    },
    /// A certificate that neither authority of the folder has signed.
    #[error(
        "{0} was signed by neither authority of this folder: only who signed a certificate can revoke it"
    )]
    NotOurs(PathBuf),
    /// The name cannot be part of a certificate and of a file name.
    #[error(
        "{0:?} is no usable name: 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit"
    )]
    Name(String),
    /// No site can have this code.
    #[error("{0:?} is no site code: three capital letters or digits, like PS1")]
    SiteCode(String),
    /// Whose certificate was revoked gets no other.
    #[error("the certificate {0} is revoked")]
    IsRevoked(Serial),
    /// Whoever holds its key must not make the list too long that revokes all of them.
    #[error(
        "{0} has {ISSUED_GOOD_MAX} certificates that are good, and gets no other: `cmg pki revoke {0}` and make one anew, or wait until one ends"
    )]
    TooMany(String),
    /// Nobody would take the list.
    #[error(
        "{path} is not signed: with {entries} serial numbers it would have {size} bytes, and more than \
         {INTERNAL_LIST_SIZE_MAX} nobody takes. What was revoked is written down, and no list says so until there is \
         another internal authority, or some of these certificates have ended"
    )]
    ListTooLong {
        /// Where it would be.
        path: PathBuf,
        /// Of how many certificates.
        entries: usize,
        /// Bytes in DER.
        size: usize,
    },
    /// The certificate could not be made.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its private key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, readable by all.
    pub certificate: PathBuf,
    /// The key, mode 0600.
    pub key: PathBuf,
}

impl Pair {
    fn new(folder: &Path, name: &str) -> Pair {
        Pair { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }
}

/// What is asked of a certificate that is made now; what is not said is as usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Kind of its key; also of one that is there already, else it is made anew.
    pub key: Option<KeyKind>,
    /// How long it is good; never longer than its authority.
    pub life: Option<Duration>,
}

/// What is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The certificate of this name: of its file, without what stands behind the dot.
    Named(String),
    /// The certificate in this file.
    InFile(PathBuf),
    /// A certificate that need not be at hand.
    Numbered(AuthorityKind, Serial),
}

/// How revoking went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is revoked from now on.
    Now(Revocation),
    /// It already was.
    Before(Revocation),
}

/// A folder of certificates with both its authorities loaded.
pub struct Pki {
    folder: PathBuf,
    site: Authority,
    internal: Authority,
    terms: Terms,
    now: SystemTime,
}

impl Pki {
    /// Opens the folder, making it and its authorities where they are missing.
    pub fn open(folder: &Path) -> Result<Pki, PkiError> {
        Pki::open_at(folder, Terms::default(), SystemTime::now())
    }

    /// As [`open`](Self::open), with authorities on these terms; those that are there must have the kind of
    /// key asked for.
    pub fn init(folder: &Path, terms: Terms) -> Result<Pki, PkiError> {
        Pki::open_at(folder, terms, SystemTime::now())
    }

    /// Opens a folder that has authorities.
    pub fn existing(folder: &Path) -> Result<Pki, PkiError> {
        let has = |kind: AuthorityKind| folder.join(format!("{}.key", kind.stem())).exists();
        if AuthorityKind::ALL.into_iter().any(has) { Pki::open(folder) } else { Err(nothing(folder)) }
    }

    /// As [`init`](Self::init), as if it were `now`: what is made is as old.
    pub fn open_at(folder: &Path, terms: Terms, now: SystemTime) -> Result<Pki, PkiError> {
        files::make_folder(folder)?;
        let _turn = files::lock(folder)?;
        files::sweep(folder);
        ["server", "clients", "internal"].iter().for_each(|name| files::sweep(&folder.join(name)));
        let register = Register::read(folder)?;
        let open = |kind| Authority::open(folder, kind, terms, &register, now);
        Ok(Pki {
            site: open(AuthorityKind::Site)?,
            internal: open(AuthorityKind::Internal)?,
            folder: folder.to_owned(),
            terms: Terms::default(),
            now,
        })
    }

    /// From here on certificates are made on these terms.
    pub fn under(self, terms: Terms) -> Pki {
        Pki { terms, ..self }
    }

    /// The site authority's certificate: what clients must trust, and what a gateway trusts in clients.
    pub fn site_ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The internal authority's certificate: what gateways and connection points trust in each other.
    pub fn internal_ca(&self) -> PathBuf {
        self.folder.join("internal-ca.pem")
    }

    /// Where client pairs are.
    pub fn clients_folder(&self) -> PathBuf {
        self.folder.join("clients")
    }

    /// The certificate that a gateway shows to clients, named by its first name.
    pub fn server(&self, names: &[String], addresses: &[IpAddr]) -> Result<Pair, PkiError> {
        let leaf = Leaf::server(names, addresses)?;
        self.provide(&self.site, &leaf, "server", &names.first().cloned().unwrap_or_default())
    }

    /// A client's certificate.
    pub fn client(&self, name: &str) -> Result<Pair, PkiError> {
        self.provide(&self.site, &Leaf::client(name)?, "clients", name)
    }

    /// Certificates for many clients, on all cores. Ten thousand take seconds.
    pub fn clients(&self, names: &[String]) -> Result<(), PkiError> {
        self.clients_watched(names, &|| ControlFlow::Continue(())).map(drop)
    }

    /// As [`clients`](Self::clients), asking after each whether to go on. What is made stays.
    pub fn clients_watched(
        &self,
        names: &[String],
        go_on: &(dyn Fn() -> ControlFlow<()> + Sync),
    ) -> Result<ControlFlow<()>, PkiError> {
        // One name twice would be made by two threads at once.
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().try_for_each(|name| Leaf::client(name).map(drop))?;
        let _turn = files::lock(&self.folder)?;
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let share = names.len().div_ceil(cores).max(1);
        thread::scope(|scope| {
            let make = |names| move || self.clients_in_turn(names, go_on);
            let makers: Vec<_> = names.chunks(share).map(|names| scope.spawn(make(names))).collect();
            let mut outcome = ControlFlow::Continue(());
            for maker in makers {
                let made = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                if made.is_break() {
                    outcome = made;
                }
            }
            Ok(outcome)
        })
    }

    fn clients_in_turn(
        &self,
        names: &[&str],
        go_on: &(dyn Fn() -> ControlFlow<()> + Sync),
    ) -> Result<ControlFlow<()>, PkiError> {
        for name in names {
            self.provide_in_turn(&self.site, &Leaf::client(name)?, "clients", name)?;
            if go_on().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What gateway instance `name` shows to connection points: `cmg://gateway/NAME`, and the TLS name
    /// [`gateway_tls_name`].
    pub fn gateway(&self, name: &str) -> Result<Pair, PkiError> {
        self.provide(&self.internal, &Leaf::gateway(name)?, "internal", &format!("gateway-{name}"))
    }

    /// What connection point `name` of a site shows to gateways: `cmg://site/CODE/connector/NAME`.
    pub fn connector(&self, site: &str, name: &str) -> Result<Pair, PkiError> {
        let leaf = Leaf::connector(site, name)?;
        self.provide(&self.internal, &leaf, "internal", &format!("connector-{site}-{name}"))
    }

    fn provide(
        &self,
        authority: &Authority,
        leaf: &Leaf,
        folder: &str,
        name: &str,
    ) -> Result<Pair, PkiError> {
        let _turn = files::lock(&self.folder)?;
        self.provide_in_turn(authority, leaf, folder, name)
    }

    fn provide_in_turn(
        &self,
        authority: &Authority,
        leaf: &Leaf,
        folder: &str,
        name: &str,
    ) -> Result<Pair, PkiError> {
        let folder = self.folder.join(folder);
        let pair = Pair::new(&folder, name);
        if !authority.is_current(&pair, leaf, self.terms, self.now) {
            files::make_folder(&folder)?;
            if std::ptr::eq(authority, &self.internal) {
                self.write_down(&pair, name)?;
            }
            let der = authority.issue(&pair, leaf, self.terms, self.now)?;
            if std::ptr::eq(authority, &self.internal)
                && let Ok((_, certificate)) = X509Certificate::from_der(&der)
            {
                Issued::of(name, &certificate).write(&self.folder)?;
            }
        }
        Ok(pair)
    }

    /// One that was made before lines were written has none, and is about to be forgotten.
    fn write_down(&self, pair: &Pair, name: &str) -> Result<(), PkiError> {
        let Ok(der) = CertificateDer::from_pem_file(&pair.certificate) else { return Ok(()) };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return Ok(()) };
        let before = Issued::of(name, &certificate);
        let is_known = Issued::read(&self.folder, name)?.contains(&before);
        if is_known || !self.internal.has_signed(&certificate) {
            return Ok(());
        }
        before.write(&self.folder)
    }

    // ── renewing ────────────────────────────────────────────────────────────────────────────────

    /// Signs the next internal certificate of somebody who was judged; gives its chain without the authority.
    pub fn renew(&self, renewable: &Renewable) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let _turn = files::lock(&self.folder)?;
        let serial = Serial::of(&renewable.serial);
        let register = Register::read(&self.folder)?;
        let is_revoked = |serial: &Serial| register.find(AuthorityKind::Internal, serial).is_some();
        if is_revoked(&serial) {
            return Err(PkiError::IsRevoked(serial));
        }
        let name = file_stem(&renewable.name);
        let mut good = Issued::read(&self.folder, &name)?;
        good.retain(|one| one.is_good(self.now_secs()) && !is_revoked(&one.serial));
        if good.len() >= ISSUED_GOOD_MAX {
            return Err(PkiError::TooMany(name));
        }
        let key = rcgen::SubjectPublicKeyInfo::from_der(&renewable.key)?;
        let made = self.internal.sign(&Leaf::renewed(renewable)?, &key, self.terms, self.now)?;
        let der = made.der().clone();
        if let Ok((_, certificate)) = X509Certificate::from_der(&der) {
            Issued::of(&name, &certificate).write(&self.folder)?;
        }
        Ok(vec![der])
    }

    /// What the issuer shows: made for the process that asks, and kept nowhere.
    pub fn issuer_identity(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let key = KeyKind::default().make()?;
        let made = self.internal.sign(&Leaf::issuer()?, &key, Terms::default(), self.now)?;
        Ok((vec![made.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into())))
    }

    /// Certificate of the internal authority, in DER.
    pub fn internal_authority(&self) -> CertificateDer<'static> {
        self.internal.der().clone()
    }

    // ── revoking ────────────────────────────────────────────────────────────────────────────────

    /// Writes down that a certificate is no longer to be believed, of an internal one with all of its name that may still
    /// be in use: whoever holds its key may have had others made. Lists say so from the next one on.
    pub fn revoke(&mut self, subject: &Subject, reason: Reason) -> Result<Vec<Revoked>, PkiError> {
        // An issuer must not make another meanwhile that is on no list.
        let _turn = files::lock(&self.folder)?;
        let (authority, serials, name) = self.identify(subject)?;
        let when = Timestamp::try_from(self.now).unwrap_or_else(|_| Timestamp::now());
        let when = Timestamp::from_second(when.as_second()).unwrap_or(when);
        let mut register = Register::read(&self.folder)?;
        let revoke =
            |serial| register.revoke(Revocation { authority, serial, name: name.clone(), when, reason });
        let revoked: Vec<Revoked> = serials.into_iter().map(revoke).collect();
        if revoked.iter().any(|one| matches!(one, Revoked::Now(_))) {
            register.write(&self.folder)?;
        }
        for one in &revoked {
            let (Revoked::Now(one) | Revoked::Before(one)) = one;
            match authority {
                AuthorityKind::Site => self.site.disown(one.serial.clone()),
                AuthorityKind::Internal => self.internal.disown(one.serial.clone()),
            }
        }
        Ok(revoked)
    }

    /// Signs a list for each authority, good for `life`: PEM, and DER beside it when asked for.
    pub fn sign_lists(&self, life: Duration, with_der: bool) -> Result<Vec<PathBuf>, PkiError> {
        let _turn = files::lock(&self.folder)?;
        self.sign_some(&AuthorityKind::ALL, life, with_der)
    }

    /// Signs the internal list anew; where it is.
    pub fn sign_internal_list(&self) -> Result<PathBuf, PkiError> {
        let _turn = files::lock(&self.folder)?;
        self.sign_some(&[AuthorityKind::Internal], INTERNAL_LIST_LIFE, false).map(|mut paths| paths.remove(0))
    }

    /// Where the internal list is.
    pub fn internal_list(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", AuthorityKind::Internal.list_stem()))
    }

    /// Signs the internal list anew when there is none, a third of its life is over, or it has not begun: whoever's clock
    /// is right does not take that.
    pub fn keep_internal_list(&self) -> Result<PathBuf, PkiError> {
        let path = self.internal_list();
        if life_over(&path, self.now) < 1.0 / 3.0 { Ok(path) } else { self.sign_internal_list() }
    }

    fn sign_some(
        &self,
        kinds: &[AuthorityKind],
        life: Duration,
        with_der: bool,
    ) -> Result<Vec<PathBuf>, PkiError> {
        let mut register = Register::read(&self.folder)?;
        let now = self.now_secs();
        let over = Issued::read_all(&self.folder)?.into_iter().filter(|one| one.is_long_over(now));
        let over: HashSet<Serial> = over.map(|one| one.serial).collect();
        let mut written = Vec::new();
        for kind in kinds.iter().copied() {
            let none = HashSet::new();
            // A role whose clock is late must not go on with whom the internal list revokes: it takes none that begins in
            // the future. The site's is for others, too.
            let (authority, over, begin) = match kind {
                AuthorityKind::Site => (&self.site, &none, authority::date(self.now)),
                AuthorityKind::Internal => (&self.internal, &over, authority::begin(self.now, life)),
            };
            let path = self.folder.join(format!("{}.pem", kind.list_stem()));
            let number = register.next_number(kind, number_of(&path), now.unsigned_abs());
            // First that the number is used up, then the list: interrupted between, a number is missing
            // and none is there twice.
            register.write(&self.folder)?;
            let entries = register.entries(kind, over);
            let count = entries.len();
            let list = authority.sign_list(entries, number, [begin, authority::date(self.now) + life])?;
            let size = list.der().len();
            if kind == AuthorityKind::Internal && size > INTERNAL_LIST_SIZE_MAX {
                return Err(PkiError::ListTooLong { path, entries: count, size });
            }
            write_file(&path, list.pem()?.as_bytes(), PUBLIC_MODE)?;
            written.push(path.clone());
            if with_der {
                let path = path.with_extension("der");
                write_file(&path, list.der(), PUBLIC_MODE)?;
                written.push(path);
            }
        }
        Ok(written)
    }

    /// Who signed what is meant, which certificates these are, and their name.
    fn identify(&self, subject: &Subject) -> Result<(AuthorityKind, Vec<Serial>, String), PkiError> {
        let (authority, serial, name) = match subject {
            Subject::Numbered(authority, serial) => (*authority, Some(serial.clone()), None),
            Subject::InFile(path) => self.identify_file(path)?,
            Subject::Named(name) => self.identify_name(name)?,
        };
        if authority == AuthorityKind::Site {
            return Ok((authority, serial.into_iter().collect(), name.unwrap_or_default()));
        }
        let mut issued = Issued::read_all(&self.folder)?;
        // Whatever a file is called: it may be a copy.
        let known =
            issued.iter().find(|one| serial.as_ref() == Some(&one.serial)).map(|one| one.name.clone());
        let name = known.or(name).unwrap_or_default();
        issued.retain(|one| one.name == name && !one.is_long_over(self.now_secs()));
        let mut seen = HashSet::new();
        let all = serial.into_iter().chain(issued.into_iter().map(|one| one.serial));
        let serials = all.filter(|serial| seen.insert(serial.clone())).collect();
        Ok((authority, serials, name))
    }

    fn identify_name(&self, name: &str) -> Result<Identified, PkiError> {
        let place = |folder: &str| self.folder.join(folder).join(format!("{name}.pem"));
        let mut files: Vec<PathBuf> = ["server", "clients", "internal"].map(place).into();
        // A name with a slash would lead out of these folders.
        files.retain(|file| crate::auth::is_name(name) && file.exists());
        // An internal certificate lives on where its file is gone.
        let mut issued = Issued::read(&self.folder, name)?;
        issued.retain(|one| !one.is_long_over(self.now_secs()));
        if !issued.is_empty() && !files.contains(&place("internal")) {
            files.push(issued::path(&self.folder));
        }
        match files.as_slice() {
            [] => Err(PkiError::Unknown { name: name.to_owned(), folder: self.folder.clone() }),
            [file] if *file == issued::path(&self.folder) => {
                Ok((AuthorityKind::Internal, None, Some(name.to_owned())))
            }
            [file] => self.identify_file(file),
            _ => Err(PkiError::Several { name: name.to_owned(), files }),
        }
    }

    fn identify_file(&self, path: &Path) -> Result<Identified, PkiError> {
        let unusable = |reason: String| PkiError::Unusable { path: path.to_owned(), reason };
        let text = fs::read(path).map_err(|source| PkiError::File { path: path.to_owned(), source })?;
        let der = CertificateDer::from_pem_slice(&text)
            .map_err(|error| unusable(format!("no PEM certificate: {error}")))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| unusable(format!("no certificate: {error}")))?;
        let authority = if self.site.has_signed(&certificate) {
            AuthorityKind::Site
        } else if self.internal.has_signed(&certificate) {
            AuthorityKind::Internal
        } else {
            return Err(PkiError::NotOurs(path.to_owned()));
        };
        let role = internal_identity(&der).ok().filter(|_| authority == AuthorityKind::Internal);
        let name = role.map_or_else(
            || path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            |role| file_stem(&role),
        );
        Ok((authority, Some(Serial::of(certificate.raw_serial())), Some(name)))
    }

    /// When it was opened, in seconds since 1970.
    fn now_secs(&self) -> i64 {
        let since = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

/// Who signed a certificate, its serial number where one certificate is meant, and its name where that is known.
type Identified = (AuthorityKind, Option<Serial>, Option<String>);

/// How much of the life of a list is over; all of one that cannot be read, or was signed by a clock that was ahead.
fn life_over(list: &Path, now: SystemTime) -> f64 {
    let der = rustls::pki_types::CertificateRevocationListDer::from_pem_file(list).ok();
    let read = der.as_ref().and_then(|der| CertificateRevocationList::from_der(der).ok());
    let times = read.and_then(|(_, list)| {
        Some((list.last_update().timestamp() as f64, list.next_update()?.timestamp() as f64))
    });
    let Some((begin, end)) = times else { return 1.0 };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if begin > now { 1.0 } else { (now - begin) / (end - begin).max(1.0) }
}

/// Name of the files of an internal certificate, without what stands behind the dot.
fn file_stem(name: &InternalName) -> String {
    match &name.site {
        Some(site) => format!("connector-{site}-{}", name.name),
        None => format!("gateway-{}", name.name),
    }
}

/// Number of a list that is there; 0 where there is none that can be read.
fn number_of(list: &Path) -> u64 {
    let Ok(der) = rustls::pki_types::CertificateRevocationListDer::from_pem_file(list) else { return 0 };
    let Ok((_, list)) = CertificateRevocationList::from_der(&der) else { return 0 };
    list.crl_number().and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

fn nothing(folder: &Path) -> PkiError {
    PkiError::Nothing(folder.to_owned())
}

/// The TLS name by which an issuer is known to those who ask it; it never needs to resolve, and no instance has it.
pub const ISSUER_TLS_NAME: &str = "issuer.cmg.internal";

/// The TLS name by which connection points know a gateway instance; it never needs to resolve.
pub fn gateway_tls_name(instance: &str) -> String {
    format!("{instance}.gateway.cmg.internal")
}
