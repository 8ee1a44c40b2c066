//! `cmg sts`: a site's token service in the foreground, until it has drained.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cmg::admin::Doors;
use cmg::review::{Document, SiteReview};
use cmg::settings::{AdminSettings, LogSettings};
use cmg::sts::{self, Start, TokenFolder};
use cmg::upgrade::Inheritance;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::{Failure, folder_of, log};

const EXAMPLES: &str = "\
Example:
  cmg token site >> site.toml
  cmg pki server sts.corp.example
  cmg sts --site site.toml --listen 192.0.2.7:9443 --internal-ca cmg-pki/internal-ca.pem \\
      --certificate cmg-pki/server/sts.corp.example.pem --key cmg-pki/server/sts.corp.example.key

and in site.toml, behind its [[management_point]]:
  [management_point.token_service]
  url = \"https://sts.corp.example:9443\"
  ca = \"cmg-pki/ca.pem\"
  certificate = \"cmg-pki/internal/connector-PS1-1.pem\"
  key = \"cmg-pki/internal/connector-PS1-1.key\"

What gateways and connection points need is public; the signing key is in the folder of tokens alone.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Settings of the site: its token issuers say whose tokens are exchanged
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// Folder with the signing key (cmg token)
    #[arg(long, value_name = "FOLDER", default_value = "./cmg-tokens")]
    tokens: PathBuf,
    /// Where connection points come
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9443")]
    listen: SocketAddr,
    /// Its certificate and chain, PEM
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The internal authority: only connection points that it signed, and of this site, are heard
    #[arg(long, value_name = "FILE")]
    internal_ca: PathBuf,
    /// Where /status and /metrics are read; a loopback address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9143")]
    admin: SocketAddr,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let document = Document::open(&arguments.site).map_err(super::gateway::mistake)?;
    let review = SiteReview::of(document, UnixTime::now());
    review.findings.verdict().map_err(|errors| Failure::Usage(errors.to_string()))?;
    let code = review.settings.as_ref().map(|settings| settings.code.clone()).unwrap_or_default();
    let signer = TokenFolder::existing(&arguments.tokens)?.signer()?;
    let tokens = review.tokens();
    let issuer = cmg::auth::token::issuer_of(signer.hierarchy());
    if !tokens.issuers.iter().any(|one| one.issuer == issuer) {
        let text = format!(
            "{}: no [[token_issuer]] with issuer = \"{issuer}\": nobody would take what is given (cmg token site \
             --dir {} prints it)",
            arguments.site.display(),
            arguments.tokens.display()
        );
        return Err(Failure::Usage(text));
    }
    let internal = certificates("--internal-ca", &arguments.internal_ca)?;
    let chain = certificates("--certificate", &arguments.certificate)?;
    let tls = sts::tls(&internal, chain, key(&arguments.key)?);
    let tls =
        tls.map_err(|error| Failure::Usage(format!("--certificate, --key or --internal-ca: {error}")))?;
    let admin = admin_at(arguments.admin)?;
    let listener = listen(arguments.listen)?;
    let folder = folder_of(&arguments.site);
    let control = arguments.tokens.join("sts.sock");
    let doors = Doors::open(&admin, folder, &control, &mut Inheritance::default());
    let doors = doors.map_err(|wrong| Failure::Usage(format!("--admin: {wrong}")))?;
    let _log = log::start("CMG_STS", &LogSettings::default())?;
    let start = Start { listener, tls, site: code, tokens: tokens.clone(), signer, doors };
    sts::run(start).map_err(|error| Failure::Broken(error.to_string()))
}

/// Where a service inside is asked how it is.
pub fn admin_at(address: SocketAddr) -> Result<AdminSettings, Failure> {
    if !address.ip().is_loopback() {
        return Err(Failure::Usage(format!("--admin: found {address}, expected a loopback address")));
    }
    Ok(AdminSettings { address, protection: None, health_address: None, socket: None, upgrade_socket: None })
}

pub fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        Failure::Usage(format!(
            "--listen: found {address}: {error}, expected an address of this machine and a port that is free"
        ))
    })
}

fn wrong(option: &str, file: &Path, found: &dyn std::fmt::Display, expected: &str) -> Failure {
    Failure::Usage(format!("{option}: found {}: {found}, expected {expected}", file.display()))
}

fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let expected = "PEM with certificates";
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, pem::Error>>);
    let read = read.map_err(|error| wrong(option, file, &error, expected))?;
    if read.is_empty() { Err(wrong(option, file, &"no certificate", expected)) } else { Ok(read) }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let expected = "PEM with a private key that nobody but owner and group can read";
    let mode = fs::metadata(file).map_or(0, |facts| facts.permissions().mode() & 0o777);
    if mode & 0o007 != 0 {
        return Err(wrong("--key", file, &format!("mode {mode:04o}"), expected));
    }
    PrivateKeyDer::from_pem_file(file).map_err(|error| wrong("--key", file, &error, expected))
}
