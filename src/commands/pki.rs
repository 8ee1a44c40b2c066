//! `cmg pki`: certificates for a site that has no CA of its own, as files.
//!
//! Standard output gets what scripts want: files made or found, one a line, or the list. What is said to
//! people goes to standard error.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use cmg::auth::is_name;
use cmg::pki::{
    AuthorityKind, Inventory, KeyKind, Pair, Pki, PkiError, Reason, Revocation, Revoked, Serial, Subject,
    Terms,
};

use super::{Failure, progress};

const EXAMPLES: &str = "\
Examples:
  cmg pki init
  cmg pki server cmg.example.org --address 192.0.2.10
  cmg pki client --count 1000 --prefix laptop
  cmg pki connector 1 --site PS1
  cmg pki revoke laptop-17 --reason keyCompromise
  cmg pki crl
  cmg pki list

A folder holds two authorities. The site's (ca.pem) signs what the internet sees: servers and clients. The \
internal one (internal-ca.pem) signs what gateways and connection points show each other. Keep both .key \
files where nobody else can read them.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder of the certificates; kept and added to when it exists
    #[arg(long, global = true, value_name = "FOLDER", default_value = "./cmg-pki")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

/// Options of every certificate that is made.
#[derive(clap::Args)]
struct Making {
    /// Kind of key, p256 unless said otherwise
    #[arg(long, value_name = "KIND", value_parser = key_kind())]
    key: Option<KeyKind>,
    /// Days a certificate made now is good
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make the site's authority and the internal one, where they are missing
    #[command(after_help = "Good for 3650 days unless said otherwise.")]
    Init {
        #[command(flatten)]
        making: Making,
    },
    /// Make the certificate that gateways show to clients
    #[command(after_help = "Good for 397 days unless said otherwise.

Example:
  cmg pki server cmg.example.org www.cmg.example.org --address 192.0.2.10 --key rsa2048")]
    Server {
        /// DNS names of the service; the first also names the files
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// An IP address to add; may be repeated
        #[arg(long = "address", value_name = "IP")]
        addresses: Vec<IpAddr>,
        #[command(flatten)]
        making: Making,
    },
    /// Make client certificates
    #[command(after_help = "Good for 397 days unless said otherwise.

Examples:
  cmg pki client laptop-17
  cmg pki client --count 1000 --prefix laptop
  cmg pki client --names names.txt")]
    Client {
        /// Names of the clients, one certificate each
        #[arg(required_unless_present_any = ["count", "file"], value_name = "NAME")]
        names: Vec<String>,
        /// Make this many, named PREFIX-1, PREFIX-2 and so on
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: Option<u32>,
        /// See --count
        #[arg(long, default_value = "client", requires = "count")]
        prefix: String,
        /// Make those this file names, one a line; blank lines and those that begin with # are left out
        #[arg(long = "names", id = "file", value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        making: Making,
    },
    /// Make the internal certificate of a gateway instance
    #[command(after_help = "Good for 90 days unless said otherwise.")]
    Gateway {
        /// The instance, as in `instance` of gateway.toml
        #[arg(value_name = "INSTANCE")]
        name: String,
        #[command(flatten)]
        making: Making,
    },
    /// Make the internal certificate of a connection point
    #[command(after_help = "Good for 90 days unless said otherwise.")]
    Connector {
        /// The connection point, as in `identity` of connector.toml
        name: String,
        /// Code of the site it belongs to
        #[arg(long, value_name = "CODE")]
        site: String,
        #[command(flatten)]
        making: Making,
    },
    /// Write down that a certificate is no longer to be believed
    #[command(after_help = "\
Examples:
  cmg pki revoke laptop-17 --reason keyCompromise
  cmg pki revoke connector-PS1-1
  cmg pki revoke --serial 3f:08:12 --authority site

Revoked certificates stand in the lists from the next `cmg pki crl` on; the internal list is signed at once. An internal \
certificate is revoked with all that its role has, also those that an issuer made, by whichever of them it is named. The \
name can be used again: the command that made the certificate makes a new one.")]
    Revoke {
        /// A certificate of the folder by the name of its file without .pem, or the path of a PEM file
        #[arg(required_unless_present = "serial", value_name = "NAME|FILE")]
        certificate: Option<String>,
        /// Or the certificate with this serial number, in hexadecimal digits
        #[arg(long, value_name = "HEX", conflicts_with = "certificate", value_parser = serial)]
        serial: Option<Serial>,
        /// Which authority signed the certificate with that serial number
        #[arg(long, value_name = "WHICH", requires = "serial", default_value = "site", value_parser = authority())]
        authority: AuthorityKind,
        /// Why, for the lists
        #[arg(long, value_name = "REASON", default_value = "unspecified", value_parser = reason())]
        reason: Reason,
    },
    /// Sign the revocation lists: crl.pem of the site's authority, internal-crl.pem of the internal one
    #[command(after_help = "\
A list is believed until its next update is due: sign new ones well before, also when nothing was revoked.")]
    Crl {
        /// Days until the next update is due
        #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=3_650))]
        days: u32,
        /// Write crl.der and internal-crl.der as well
        #[arg(long)]
        der: bool,
    },
    /// Say what there is, until when it is good, and what was revoked
    #[command(after_help = "\
States: good, ageing (in the last third of its life: the command that made it makes another), expired, \
revoked, foreign (signed by an authority that is not in this folder), broken (no key, or not readable).")]
    List {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn key_kind() -> impl TypedValueParser<Value = KeyKind> {
    let found = |text: String| KeyKind::ALL.into_iter().find(|kind| kind.as_str() == text);
    PossibleValuesParser::new(KeyKind::ALL.map(KeyKind::as_str))
        .map(move |text| found(text).unwrap_or_default())
}

fn authority() -> impl TypedValueParser<Value = AuthorityKind> {
    PossibleValuesParser::new(AuthorityKind::ALL.map(AuthorityKind::as_str)).map(|text| match text.as_str() {
        "internal" => AuthorityKind::Internal,
        _ => AuthorityKind::Site,
    })
}

fn reason() -> impl TypedValueParser<Value = Reason> {
    let found = |text: String| Reason::ALL.into_iter().find(|reason| reason.as_str() == text);
    PossibleValuesParser::new(Reason::ALL.map(Reason::as_str))
        .map(move |text| found(text).unwrap_or_default())
}

fn serial(text: &str) -> Result<Serial, String> {
    Serial::parse(text)
        .ok_or_else(|| "not the hexadecimal digits of a serial number, 20 octets at most".into())
}

impl Making {
    fn terms(&self) -> Terms {
        Terms { key: self.key, life: self.days.map(days) }
    }

    fn open(&self, folder: &Path) -> Result<Pki, PkiError> {
        Ok(Pki::open(folder)?.under(self.terms()))
    }
}

fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 24 * 60 * 60)
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let folder = &arguments.dir;
    match &arguments.command {
        Command::Init { making } => {
            let pki = Pki::init(folder, making.terms())?;
            say(&[pki.site_ca(), pki.internal_ca()]);
        }
        Command::Server { names, addresses, making } => {
            say_pair(making.open(folder)?.server(names, addresses)?);
        }
        Command::Client { names, count, prefix, file, making } => {
            let mut names = names.clone();
            names.extend((1..=count.unwrap_or(0)).map(|number| format!("{prefix}-{number}")));
            names.extend(file.as_deref().map(names_in).transpose()?.unwrap_or_default());
            let pki = making.open(folder)?;
            clients(&pki, &names)?;
            say(&[pki.clients_folder()]);
        }
        Command::Gateway { name, making } => say_pair(making.open(folder)?.gateway(name)?),
        Command::Connector { name, site, making } => say_pair(making.open(folder)?.connector(site, name)?),
        Command::Revoke { certificate, serial, authority, reason } => {
            let subject = match (certificate, serial) {
                (Some(text), _) => subject(text),
                (None, Some(serial)) => Subject::Numbered(*authority, serial.clone()),
                (None, None) => return Err(Failure::Usage("NAME, FILE or --serial is missing".into())),
            };
            revoke(&mut Pki::existing(folder)?, &subject, *reason)?;
        }
        Command::Crl { days: count, der } => say(&Pki::existing(folder)?.sign_lists(days(*count), *der)?),
        Command::List { json } => print(&list(&Inventory::read(folder)?, *json)?),
    }
    Ok(())
}

fn clients(pki: &Pki, names: &[String]) -> Result<(), PkiError> {
    let bar = progress::bar(names.len(), "Client certificates");
    let outcome = pki.clients_watched(names, &|| {
        bar.inc(1);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    outcome.map(drop)
}

/// Names of a file, one a line. All that cannot be one are told at once.
fn names_in(file: &Path) -> Result<Vec<String>, Failure> {
    let text =
        fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).zip(1..);
    let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let (good, bad): (Vec<_>, Vec<_>) = lines.partition(|(line, _)| is_name(line));
    if bad.is_empty() {
        return Ok(good.into_iter().map(|(line, _)| line.to_owned()).collect());
    }
    let told = |(line, number): &(&str, i32)| {
        let name = PkiError::Name(line.chars().take(80).collect());
        format!("{}:{number}: {name}", file.display())
    };
    let mut lines: Vec<String> = bad.iter().take(FAULTS_TOLD).map(told).collect();
    if bad.len() > FAULTS_TOLD {
        lines.push(format!("and {} lines more", bad.len() - FAULTS_TOLD));
    }
    Err(Failure::Usage(lines.join("\n")))
}

/// Of the faults of one file: more would push the first off the screen.
const FAULTS_TOLD: usize = 20;

/// What has a slash or an extension is a file.
fn subject(text: &str) -> Subject {
    let is_file = text.contains('/') || [".pem", ".crt", ".cer"].iter().any(|end| text.ends_with(end));
    if is_file { Subject::InFile(text.into()) } else { Subject::Named(text.into()) }
}

/// Who is revoked on channels is to be cut in seconds, so the internal list is signed at once.
fn revoke(pki: &mut Pki, subject: &Subject, reason: Reason) -> Result<(), PkiError> {
    let revoked = pki.revoke(subject, reason)?;
    // Also what was revoked before: perhaps that was interrupted, and no list says so.
    let is_internal = |one: &Revoked| {
        let (Revoked::Now(one) | Revoked::Before(one)) = one;
        one.authority == AuthorityKind::Internal
    };
    let list = revoked.iter().any(is_internal).then(|| pki.sign_internal_list()).transpose()?;
    revoked.iter().for_each(|one| tell(one, list.as_deref()));
    Ok(())
}

fn tell(revoked: &Revoked, list: Option<&Path>) {
    let says_so = list.map(|list| format!("; {} says so", list.display()));
    let (revocation, rest) = match revoked {
        Revoked::Now(revocation) => {
            let later = || "; `cmg pki crl` signs the lists that say so".to_owned();
            (revocation, says_so.unwrap_or_else(later))
        }
        Revoked::Before(revocation) => {
            let unchanged = || "; nothing was changed".to_owned();
            (revocation, format!(" before{}", says_so.unwrap_or_else(unchanged)))
        }
    };
    let Revocation { authority, serial, name, when, reason } = revocation;
    print(&format!("{serial} {name}\n"));
    let name = if name.is_empty() { format!("serial number {serial}") } else { name.clone() };
    let (authority, reason) = (authority.as_str(), reason.as_str());
    let text = format!("cmg: {name} of the {authority} authority was revoked on {when} ({reason}){rest}");
    let _ = writeln!(io::stderr(), "{text}");
}

fn list(inventory: &Inventory, json: bool) -> Result<String, Failure> {
    if json {
        let text = serde_json::to_string_pretty(inventory);
        return text.map(|text| text + "\n").map_err(|error| Failure::Broken(error.to_string()));
    }
    let dash = || "-".to_owned();
    let mut rows = vec![["KIND", "NAME", "STATE", "EXPIRES", "KEY", "SERIAL"].map(str::to_owned)];
    rows.extend(inventory.certificates.iter().map(|entry| {
        let facts = entry.facts.as_ref();
        [
            entry.kind.as_str().to_owned(),
            entry.name.clone(),
            entry.state.as_str().to_owned(),
            facts.map_or_else(dash, |facts| facts.not_after.to_string()),
            facts.and_then(|facts| facts.key).map_or_else(dash, |key| key.to_string()),
            facts.map_or_else(dash, |facts| facts.serial.to_string()),
        ]
    }));
    let mut text = table(&rows);
    if !inventory.revoked.is_empty() {
        let mut rows = vec![["REVOKED", "NAME", "AUTHORITY", "REASON", "SERIAL"].map(str::to_owned)];
        rows.extend(inventory.revoked.iter().map(|one| {
            let name = if one.name.is_empty() { dash() } else { one.name.clone() };
            let (authority, reason) = (one.authority.as_str().to_owned(), one.reason.as_str().to_owned());
            [one.when.to_string(), name, authority, reason, one.serial.to_string()]
        }));
        text = format!("{text}\n{}", table(&rows));
    }
    Ok(text)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// Files made or found, one a line, for scripts.
fn say(paths: &[PathBuf]) {
    print(&paths.iter().map(|path| format!("{}\n", path.display())).collect::<String>());
}

fn say_pair(pair: Pair) {
    say(&[pair.certificate, pair.key]);
}

/// A closed pipe is nothing to die of.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_file_are_told_by_file_and_line_when_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("names.txt");
        fs::write(&file, "\u{feff}a\r\n\n # no name\n#b\n  c  \n").unwrap();
        assert_eq!(names_in(&file).ok(), Some(vec!["a".to_owned(), "c".to_owned()]));
        fs::write(&file, "a\n../b\nc\nd e\n").unwrap();
        let Err(Failure::Usage(text)) = names_in(&file) else { panic!("taken") };
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].contains("names.txt:2: \"../b\"") && lines[1].contains("names.txt:4: \"d e\""),
            "{text}"
        );
    }

    #[test]
    fn what_looks_like_a_file_is_one() {
        for (text, is_file) in [("a", false), ("a.b", false), ("a.pem", true), ("x/a", true), ("a.crt", true)]
        {
            assert_eq!(matches!(subject(text), Subject::InFile(_)), is_file, "{text}");
        }
    }
}
