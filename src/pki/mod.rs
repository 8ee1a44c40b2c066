//! Certificates for a site that has no CA of its own: two small authorities and what they sign.
//!
//! The *site* authority signs what the internet sees: server certificates of gateways and client
//! certificates. The *internal* authority signs what gateways and connection points show each other.
//! They are apart because an internal identity must never pass for a client's, nor the reverse.
//! Judging certificates is `auth/`; this module only makes them, and every role takes others as well.
//!
//! A folder holds `ca.pem` and `ca.key`, `internal-ca.pem` and `internal-ca.key`, and pairs of
//! `NAME.pem` and `NAME.key` in `server/`, `clients/` and `internal/`. What is there is kept: a pair is
//! made anew only when it is incomplete, has used up two thirds of its life, lacks a name it should have
//! or comes from another authority.

mod authority;
mod files;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use authority::{Authority, Leaf};
pub use files::{KEY_MODE, PUBLIC_MODE, write_file};

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
    /// The name cannot be part of a certificate and of a file name.
    #[error(
        "{0:?} is no usable name: 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit"
    )]
    Name(String),
    /// No site can have this code.
    #[error("{0:?} is no site code: three capital letters or digits, like PS1")]
    SiteCode(String),
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

/// A folder of certificates with both its authorities loaded.
pub struct Pki {
    folder: PathBuf,
    site: Authority,
    internal: Authority,
    now: SystemTime,
}

impl Pki {
    /// Opens the folder, making it and its authorities where they are missing.
    pub fn open(folder: &Path) -> Result<Pki, PkiError> {
        Pki::open_at(folder, SystemTime::now())
    }

    fn open_at(folder: &Path, now: SystemTime) -> Result<Pki, PkiError> {
        files::make_folder(folder)?;
        Ok(Pki {
            site: Authority::open(&Pair::new(folder, "ca"), "cmg site CA", now)?,
            internal: Authority::open(&Pair::new(folder, "internal-ca"), "cmg internal CA", now)?,
            folder: folder.to_owned(),
            now,
        })
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
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let share = names.len().div_ceil(cores).max(1);
        thread::scope(|scope| {
            let makers: Vec<_> =
                names.chunks(share).map(|names| scope.spawn(|| self.clients_in_turn(names))).collect();
            makers.into_iter().try_for_each(|maker| match maker.join() {
                Ok(made) => made,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    fn clients_in_turn(&self, names: &[String]) -> Result<(), PkiError> {
        names.iter().try_for_each(|name| self.client(name).map(drop))
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
        let folder = self.folder.join(folder);
        let pair = Pair::new(&folder, name);
        if !authority.is_current(&pair, leaf, self.now) {
            files::make_folder(&folder)?;
            authority.issue(&pair, leaf, self.now)?;
        }
        Ok(pair)
    }
}

/// The TLS name by which connection points know a gateway instance; it never needs to resolve.
pub fn gateway_tls_name(instance: &str) -> String {
    format!("{instance}.gateway.cmg.internal")
}
