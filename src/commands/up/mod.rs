//! `cmg up`: the whole path on this machine, from one folder.
//!
//! Certificates and settings are made under the folder where they are missing and kept from then on;
//! then one process per role is started from this same binary, watched, and drained at the end.

mod children;
mod choices;
mod plan;
mod report;
mod texts;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cmg::pki::{PUBLIC_MODE, Pki, PkiError, write_file};

use super::{Failure, progress};
use children::{Children, Outcome, Ready, Signals, Start};
use choices::Choices;
use plan::Plan;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cmg up
  cmg up --origin http://mp.corp --clients 1000
  cmg up --origin https://mp.corp --origin-ca corp-ca.pem --gateway-port 8443

Everything listens on loopback. Certificates, settings and ports are kept in the folder and used again; a \
settings file that was edited is left as it is. When all is ready, standard output gets lines for a shell: \
a request that is answered, one that is refused, how to look at status and metrics. The first Ctrl-C drains, \
the second stops at once. Logs are in the folder, up.json there is for scripts.")]
pub struct Arguments {
    /// Folder of certificates, settings, logs and up.json; kept and reused
    #[arg(long, value_name = "FOLDER", default_value = "./cmg-up")]
    dir: PathBuf,
    /// URL of the management point to publish; `sample` for the embedded one
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// PEM file with the CA by which an https origin is trusted
    #[arg(long, value_name = "FILE", requires = "origin")]
    origin_ca: Option<PathBuf>,
    /// SHA-256 thumbprint by which an https origin is trusted, instead of a CA
    #[arg(long, value_name = "HEX", requires = "origin", conflicts_with = "origin_ca")]
    origin_thumbprint: Option<String>,
    /// Folder that `loadgen tokens` made: the site takes what it signs, and up.json names it; kept for the next time,
    /// `none` forgets it
    #[arg(long, value_name = "FOLDER")]
    tokens: Option<PathBuf>,
    /// Client certificates to have ready
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// Shards of each role, instead of one per CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: Option<u16>,
    /// Port of the gateway for clients, instead of a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gateway_port: Option<u16>,
    /// Port of the gateway for connection points, instead of a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    channel_port: Option<u16>,
    /// Port of the gateway's admin listener, instead of a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gateway_admin_port: Option<u16>,
    /// Port of the connector's admin listener, instead of a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    connector_admin_port: Option<u16>,
    /// Port of the embedded management point, instead of a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    origin_port: Option<u16>,
    /// TLS name of the service
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

const SITE: &str = "PS1";
const INSTANCE: &str = "gw1";
const CONNECTOR: &str = "1";
/// The first management point of a site, as real ones are numbered: 2^56 + 5.
const MANAGEMENT_POINT: u64 = (1 << 56) + 5;
/// Role id of the software update point, which is the same origin.
const UPDATE_POINT: u64 = (1 << 56) + 6;

/// From start to ready. A machine under full load needs seconds, a role that cannot start says so.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Before anything is started: a signal during the start must stop what was started.
    let mut signals = Signals::new()?;
    let folder = open_folder(&arguments.dir)?;
    let _lock = lock(&folder)?;
    report::remove(&folder);

    let pki = Pki::open(&folder.join("pki"))?;
    // Apart from its key, which has no place beside a gateway.
    let ca = fs::read(pki.internal_ca())
        .map_err(|error| Failure::Broken(format!("{}: {error}", pki.internal_ca().display())))?;
    write_file(&folder.join("internal-ca.pem"), &ca, PUBLIC_MODE)?;
    let choices = Choices::settle(&folder, &pki, arguments)?;
    if make_certificates(&pki, &choices, arguments.clients, signals.asked())?.is_break() {
        return Ok(());
    }
    let plan = Plan::read(&folder, &choices)?;

    let mut children = Children::default();
    let mut outcome = bring_up(&folder, &plan, &mut children, &mut signals);
    report::remove(&folder);
    if let Err(Failure::Broken(text) | Failure::Usage(text)) = &mut outcome {
        // Before the others drain, which may take a while; taken, for it is said once.
        notice(&std::mem::take(text));
    }
    children.stop(&mut signals);
    outcome
}

fn bring_up(
    folder: &Path,
    plan: &Plan,
    children: &mut Children,
    signals: &mut Signals,
) -> Result<(), Failure> {
    for start in starts(folder, plan) {
        children.start(start)?;
    }
    if let Outcome::Stopped = children.wait_until_ready(READY_WITHIN, signals)? {
        return Ok(());
    }
    report::write(folder, plan, children)?;
    report::print(folder, plan, children);
    children.watch(signals)
}

/// What is started, from the far end of the path to the near one; stopping goes the other way.
fn starts(folder: &Path, plan: &Plan) -> Vec<Start> {
    let role = |role: &'static str, admin| {
        let config = path_text(&folder.join(format!("{role}.toml")));
        let arguments = vec![role.to_owned(), "--of-up".to_owned(), "--config".to_owned(), config];
        Start { role, arguments, log: folder.join(format!("{role}.log")), ready: Ready::Says(admin) }
    };
    let sample = plan.sample.map(|address| Start {
        role: "origin",
        arguments: vec!["sample-origin".to_owned(), "--listen".to_owned(), address.to_string()],
        log: folder.join("origin.log"),
        ready: Ready::Listens(address),
    });
    let roles = [role("connector", plan.connector_admin), role("gateway", plan.gateway_admin)];
    sample.into_iter().chain(roles).collect()
}

fn open_folder(folder: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(folder)
        .and_then(|()| folder.canonicalize())
        .map_err(|error| Failure::Usage(format!("{}: {error}; {ELSEWHERE}", folder.display())))
}

const ELSEWHERE: &str = "give a folder that you may write to with --dir";

/// Two at once in one folder would overwrite each other's files.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join(".lock");
    let file = File::create(&path)
        .map_err(|error| Failure::Usage(format!("{}: {error}; {ELSEWHERE}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::Broken(format!(
            "another `cmg up` runs in {}: stop it first, or give this one its own --dir",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => Err(broken(&path, &error)),
    }
}

fn make_certificates(
    pki: &Pki,
    choices: &Choices,
    clients: u32,
    stop: &AtomicBool,
) -> Result<ControlFlow<()>, PkiError> {
    pki.server(&[choices.name.clone(), "localhost".into()], &[choices::LOOPBACK])?;
    pki.gateway(INSTANCE)?;
    pki.connector(SITE, CONNECTOR)?;
    let names: Vec<String> = (1..=clients).map(client_name).collect();
    let bar = progress::bar(names.len(), "Client certificates");
    let outcome = pki.clients_watched(&names, &|| {
        bar.inc(1);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    outcome
}

/// What happens meanwhile, for people; standard output has only what was asked for.
fn notice(text: &str) {
    let _ = writeln!(io::stderr(), "cmg: {text}");
}

fn client_name(number: u32) -> String {
    format!("client-{number}")
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Broken(format!("{}: {error}", path.display()))
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
