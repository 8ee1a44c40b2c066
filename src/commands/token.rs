//! `cmg token`: registration tokens of a site's own, issued, listed and blocked.
//!
//! Standard output gets what scripts want: the token, or the list. What is said to people goes to
//! standard error.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use cmg::sts::{Issued, StsError, TokenFolder};

use super::Failure;

const EXAMPLES: &str = "\
Examples:
  cmg token new --note \"laptops of May\"
  cmg token new --minutes 10080
  cmg token list
  cmg token block 6F9619FF-8B86-4011-B42D-00C04FC964FF
  cmg token site

The token is printed once and kept nowhere; its id and its end are. Keep signing.key in the folder where \
nobody else can read it; site.toml needs keys.json and blocked.txt (cmg token site).";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder with the signing key and what was issued; made when it is not there
    #[arg(long, global = true, value_name = "FOLDER", default_value = "./cmg-tokens")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Issue a registration token and print it
    New {
        /// How long it lives, at most 10080 (7 days)
        #[arg(long, value_name = "N", default_value_t = 4_320)]
        minutes: u64,
        /// For the list
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// GUID of the site's hierarchy, when the folder is made; made up unless said
        #[arg(long, value_name = "GUID", value_parser = guid)]
        hierarchy: Option<String>,
    },
    /// List tokens that have not ended
    List,
    /// Refuse a token from now on
    Block {
        /// Id, as the list has it
        id: String,
    },
    /// Take a blocked token again
    Unblock {
        /// Id, as the list has it
        id: String,
    },
    /// Print what site.toml needs for these tokens to be taken
    Site,
}

fn guid(text: &str) -> Result<String, String> {
    let is_guid = text.len() == 36
        && text.bytes().enumerate().all(|(place, octet)| match place {
            8 | 13 | 18 | 23 => octet == b'-',
            _ => octet.is_ascii_hexdigit(),
        });
    if is_guid {
        Ok(text.to_owned())
    } else {
        Err("expected a GUID like 6f9619ff-8b86-4011-b42d-00c04fc964ff".to_owned())
    }
}

/// Does what was asked.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let hierarchy = match &arguments.command {
        Command::New { hierarchy, .. } => hierarchy.as_deref(),
        Command::List | Command::Block { .. } | Command::Unblock { .. } | Command::Site => None,
    };
    let mut folder = TokenFolder::open(&arguments.dir, hierarchy)?;
    match &arguments.command {
        Command::New { minutes, note, .. } => {
            let life = Duration::from_secs(minutes.saturating_mul(60));
            let (token, issued) = folder.issue(life, note)?;
            let _ = writeln!(io::stderr(), "token {} lives until {}", issued.id, time(issued.until));
            print(&format!("{token}\n"))
        }
        Command::List => print(&list(folder.tokens())),
        Command::Block { id } => say(&folder.block(id, true)?),
        Command::Unblock { id } => say(&folder.block(id, false)?),
        Command::Site => print(&folder.site_toml()),
    }
}

fn say(issued: &Issued) -> Result<(), Failure> {
    let state = if issued.blocked { "is blocked" } else { "is taken" };
    let _ = writeln!(io::stderr(), "token {} {state}", issued.id);
    Ok(())
}

fn list<'i>(tokens: impl Iterator<Item = &'i Issued>) -> String {
    let mut text = format!("{:<36}  {:<7}  {:<20}  NOTE\n", "ID", "STATE", "UNTIL");
    for Issued { id, note, until, blocked, .. } in tokens {
        let state = if *blocked { "blocked" } else { "good" };
        let _ = writeln!(text, "{id:<36}  {state:<7}  {:<20}  {}", time(*until), note.escape_debug());
    }
    text
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::Broken(format!("standard output: {error}")))
}

impl From<StsError> for Failure {
    fn from(error: StsError) -> Failure {
        match error {
            StsError::Life(_) | StsError::Unknown(_) => Failure::Usage(error.to_string()),
            StsError::File(_) | StsError::Unusable { .. } | StsError::Full | StsError::Key(_) => {
                Failure::Broken(error.to_string())
            }
        }
    }
}
