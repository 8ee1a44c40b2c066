//! `cmg pki`: certificates for a site that has no CA of its own, as files.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cmg::pki::{Pair, Pki, PkiError};

use super::Failure;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the certificates; kept and added to when it exists
    #[arg(long, global = true, value_name = "FOLDER", default_value = "./cmg-pki")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make the site's authority and the internal one, where they are missing
    Init,
    /// Make the certificate that gateways show to clients
    Server {
        /// DNS names of the service; the first also names the files
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// An IP address to add; may be repeated
        #[arg(long = "address", value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Make client certificates
    Client {
        /// Names of the clients, one certificate each
        #[arg(required_unless_present = "count", value_name = "NAME")]
        names: Vec<String>,
        /// Make this many, named PREFIX-1, PREFIX-2 and so on
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: Option<u32>,
        /// See --count
        #[arg(long, default_value = "client", requires = "count")]
        prefix: String,
    },
    /// Make the internal certificate of a gateway instance
    Gateway {
        /// The instance, as in `instance` of gateway.toml
        #[arg(value_name = "INSTANCE")]
        name: String,
    },
    /// Make the internal certificate of a connection point
    Connector {
        /// The connection point, as in `name` of connector.toml
        name: String,
        /// Code of the site it belongs to
        #[arg(long, value_name = "CODE")]
        site: String,
    },
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    make(arguments).map_err(Failure::from)
}

fn make(arguments: &Arguments) -> Result<(), PkiError> {
    let pki = Pki::open(&arguments.dir)?;
    match &arguments.command {
        Command::Init => {
            say(&pki.site_ca());
            say(&pki.internal_ca());
        }
        Command::Server { names, addresses } => say_pair(&pki.server(names, addresses)?),
        Command::Client { names, count, prefix } => {
            let mut names = names.clone();
            names.extend((1..=count.unwrap_or(0)).map(|number| format!("{prefix}-{number}")));
            pki.clients(&names)?;
            say(&pki.clients_folder());
        }
        Command::Gateway { name } => say_pair(&pki.gateway(name)?),
        Command::Connector { name, site } => say_pair(&pki.connector(site, name)?),
    }
    Ok(())
}

/// Files made or found, one a line, for scripts. A closed pipe is nothing to die of.
fn say(path: &Path) {
    let _ = writeln!(io::stdout(), "{}", path.display());
}

fn say_pair(pair: &Pair) {
    say(&pair.certificate);
    say(&pair.key);
}
