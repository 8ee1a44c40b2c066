//! `cmg import`: a site's settings from the table of proxy routings that an existing site exports.
//!
//! `import/table.rs` reads the file into rows, `import/site.rs` makes settings of them; here are the options, the files,
//! and what is said about it. Every row that cannot be taken over is told by file and line: nothing is left
//! out in silence, and nothing is published that the table did not have.

mod site;
mod table;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cmg::auth::is_site_code;
use cmg::limits::IMPORT_SIZE_MAX;
use cmg::pki::{PUBLIC_MODE, write_file};
use cmg::settings::SiteSettings;

use super::Failure;

#[derive(clap::Args)]
#[command(after_help = "\
The table has a row for each routing, with the columns external URL, endpoint name and internal URL, found \
by their headers or in this order; separated by commas, semicolons or tabs, in UTF-8 or UTF-16:

  ExternalUrl,EndpointName,InternalUrl
  https://cmg.example.org/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP,SMS_MP,http://mp.corp/SMS_MP

Examples:
  cmg import routings.csv --site PS1
  cmg import routings.csv --site PS1 --ca corp-ca.pem --client-ca clients.pem

What the table does not say is marked TO COMPLETE in the file. Rows that cannot be taken over are told by \
line. Exit code 0 also when rows were left out; 1 when none could be taken over.")]
pub struct Arguments {
    /// The exported table
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    /// Code of the site
    #[arg(long, value_name = "CODE", value_parser = site_code)]
    site: Option<String>,
    /// Serial number of the settings; gateways ignore a lower one than they have
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    serial: u64,
    /// Where the settings go; - is standard output
    #[arg(long, value_name = "FILE", default_value = "site.toml")]
    out: PathBuf,
    /// PEM file with the CA by which https origins are trusted
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// SHA-256 thumbprint of the certificate by which https origins are trusted, instead of a CA
    #[arg(long, value_name = "HEX", conflicts_with = "ca")]
    thumbprint: Option<String>,
    /// PEM file with the CA of client certificates; may be repeated
    #[arg(long = "client-ca", value_name = "FILE")]
    client_cas: Vec<PathBuf>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// Something about one line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    line: u64,
    found: String,
    /// What was expected instead, or why it is not taken over.
    why: String,
}

impl Note {
    fn new(line: u64, found: impl fmt::Display, why: impl Into<String>) -> Note {
        // Whatever stands in the table, it is one short line on a terminal.
        let found: String = found.to_string().escape_debug().take(FOUND_SIZE_MAX).collect();
        Note { line, found, why: why.into() }
    }
}

/// Characters of a cell that are shown.
const FOUND_SIZE_MAX: usize = 160;

fn site_code(text: &str) -> Result<String, String> {
    let expected = "three capital letters or digits, like PS1";
    if is_site_code(text) { Ok(text.to_owned()) } else { Err(expected.into()) }
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = arguments.file.display().to_string();
    let to_file = arguments.out != Path::new("-");
    if to_file && !arguments.force && arguments.out.exists() {
        let out = arguments.out.display();
        return Err(Failure::Usage(format!(
            "{out} is there already: name another file with --out, or add --force"
        )));
    }
    let told = |note: &Note| format!("{name}:{}: found {}, {}", note.line, note.found, note.why);
    let text = table::decode(&read(&arguments.file)?).map_err(|note| Failure::Usage(told(&note)))?;
    let table = table::read(&text).map_err(|note| Failure::Usage(told(&note)))?;
    let written = site::write(&table, &options(arguments)?);
    for note in &written.notes {
        let _ = writeln!(io::stderr(), "{}", told(note));
    }
    let left_out = table.rows.len() - written.taken;
    if written.taken == 0 {
        return Err(Failure::Broken(format!(
            "{name}: none of {left_out} rows can be taken over, nothing was written"
        )));
    }
    SiteSettings::parse(&written.text, "the result").map_err(|errors| {
        Failure::Broken(format!("{name}: these rows make no valid settings, nothing was written:\n{errors}"))
    })?;
    if to_file {
        write_file(&arguments.out, written.text.as_bytes(), PUBLIC_MODE)?;
    } else {
        // A closed pipe is nothing to die of.
        let _ = io::stdout().write_all(written.text.as_bytes());
    }
    let counted = format!(
        "{name}: {} of {} rows taken over into {} roles, {left_out} left out; {} lines to complete{}",
        written.taken,
        table.rows.len(),
        written.roles,
        written.to_complete,
        if to_file { format!(" in {}", arguments.out.display()) } else { String::new() },
    );
    let _ = writeln!(io::stderr(), "{counted}");
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = |text: &dyn fmt::Display| Failure::Usage(format!("{}: {text}", file.display()));
    let mut bytes = Vec::new();
    let source = File::open(file).map_err(|error| wrong(&error))?;
    source.take(IMPORT_SIZE_MAX + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
    if bytes.len() as u64 > IMPORT_SIZE_MAX {
        let text = format!("found more than {IMPORT_SIZE_MAX} bytes, expected a table of proxy routings");
        return Err(wrong(&text));
    }
    Ok(bytes)
}

/// What the settings say besides the rows. Paths become absolute: those in the file are relative to it.
fn options(arguments: &Arguments) -> Result<site::Options, Failure> {
    let absolute = |path: &PathBuf| match fs::canonicalize(path) {
        Ok(path) => Ok(path.to_string_lossy().into_owned()),
        Err(error) => Err(Failure::Usage(format!("{}: {error}", path.display()))),
    };
    Ok(site::Options {
        source: arguments.file.display().to_string(),
        site: arguments.site.clone(),
        serial: arguments.serial,
        ca: arguments.ca.as_ref().map(absolute).transpose()?,
        thumbprint: arguments.thumbprint.clone(),
        client_cas: arguments.client_cas.iter().map(absolute).collect::<Result<_, _>>()?,
    })
}
