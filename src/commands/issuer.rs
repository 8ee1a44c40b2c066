//! `cmg issuer`: who has the internal authority's key, in the foreground, until it has drained.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cmg::admin::Doors;
use cmg::issuer::{self, Start};
use cmg::settings::LogSettings;
use cmg::upgrade::Inheritance;

use super::{Failure, log};

const EXAMPLES: &str = "\
Example:
  cmg pki init
  cmg pki connector 1 --site PS1
  cmg issuer --listen 192.0.2.7:9444

and in connector.toml:
  [internal]
  issuer = \"192.0.2.7:9444\"

It belongs inside the company, where the folder of `cmg pki` is: connection points come to it, and carry what gateways \
ask. A gateway has no way to it and never has its key.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder of the certificates, with the internal authority (cmg pki)
    #[arg(long, value_name = "FOLDER", default_value = "./cmg-pki")]
    dir: PathBuf,
    /// Where roles come
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9444")]
    listen: SocketAddr,
    /// Days a certificate made now is good, 90 unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=365))]
    days: Option<u32>,
    /// The same in seconds, to watch certificates being renewed
    #[arg(long, value_name = "N", hide = true, conflicts_with = "days")]
    seconds: Option<u32>,
    /// Where /status and /metrics are read; a loopback address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9144")]
    admin: SocketAddr,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let admin = super::sts::admin_at(arguments.admin)?;
    let listener = super::sts::listen(arguments.listen)?;
    let control = arguments.dir.join("issuer.sock");
    let doors = Doors::open(&admin, &arguments.dir, &control, &mut Inheritance::default());
    let doors = doors.map_err(|wrong| Failure::Usage(format!("--admin: {wrong}")))?;
    let _log = log::start("CMG_ISSUER", &LogSettings::default())?;
    let life = arguments.days.map(|days| u64::from(days) * 24 * 60 * 60).or(arguments.seconds.map(u64::from));
    let life = life.map(Duration::from_secs);
    let start = Start { listener, folder: arguments.dir.clone(), life, doors };
    issuer::run(start).map_err(|error| Failure::Broken(error.to_string()))
}
