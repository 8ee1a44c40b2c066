//! `cmg log-level`: how much a running role logs, told and changed through its control socket.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use cmg::admin::{AskError, ask};
use cmg::limits;
use cmg::settings::LogLevel;
use jiff::SignedDuration;
use serde_json::Value;

use super::Failure;
use super::running::RoleFile;

#[derive(clap::Args)]
pub struct Arguments {
    /// What to log from now on; without it, the level in force is printed
    #[arg(value_name = "LEVEL", value_parser = level_parser())]
    level: Option<LogLevel>,
    /// Settings of the running role
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Go back by itself after this time, like 90s, 10m or 1h30m
    #[arg(long = "for", value_name = "TIME", requires = "level", value_parser = time)]
    within: Option<Duration>,
}

fn level_parser() -> impl TypedValueParser<Value = LogLevel> {
    PossibleValuesParser::new(LogLevel::ALL.map(LogLevel::as_str))
        .try_map(|text| LogLevel::parse(&text).ok_or("no level"))
}

/// A number without a unit is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let longest = limits::LOG_LEVEL_FOR_MAX;
    let span = match text.parse() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => text.parse().ok().and_then(|span: SignedDuration| Duration::try_from(span).ok()),
    };
    let bounds = Duration::from_secs(1)..=longest;
    span.filter(|span| bounds.contains(span)).ok_or_else(|| {
        format!("expected a time from 1s to {}h, like 90s, 10m or 1h30m", longest.as_secs() / 3600)
    })
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file = RoleFile::read(&arguments.config)?;
    let socket = file.socket(&arguments.config);
    let (method, body) = match arguments.level {
        Some(level) => ("PUT", level.as_str()),
        None => ("GET", ""),
    };
    let query = arguments.within.map(|within| format!("?for={}", within.as_secs())).unwrap_or_default();
    let answer = ask(&socket, method, &format!("/log-level{query}"), body).map_err(|error| {
        let remedy = match error {
            AskError::Unreachable(_) => {
                "; is the role running, and is this the user that runs it? Its log says at start when \
                 it has no control socket; admin.socket in its settings names one"
            }
            AskError::File(_) | AskError::Broken(_) | AskError::Silent => "",
        };
        Failure::Broken(format!("the {} cannot be asked at {socket}: {error}{remedy}", file.role))
    })?;
    if answer.status != 200 {
        let text = answer.body.trim_end();
        return Err(Failure::Broken(format!("the {} refuses: {} {text}", file.role, answer.status)));
    }
    // A closed pipe is nothing to die of.
    let _ = writeln!(io::stdout(), "{}", said(&answer.body));
    Ok(())
}

fn said(body: &str) -> String {
    let told: Value = serde_json::from_str(body).unwrap_or_default();
    let Some(level) = told["level"].as_str() else { return body.trim_end().to_owned() };
    match (told["then"].as_str(), told["then_in_secs"].as_u64()) {
        (Some(then), Some(secs)) => format!("{level} (in {secs} s {then} again)"),
        _ => level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, secs) in [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5_400), ("24h", 86_400)] {
            assert_eq!(time(text).map(|time| time.as_secs()), Ok(secs), "{text}");
        }
        for text in ["", "0", "0s", "-5s", "25h", "10 parsecs", "1e9", "99999999999999999999"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_is_told_in_words() {
        let rows = [
            ("{\"level\":\"info\"}", "info"),
            ("{\"level\":\"debug\",\"then\":\"info\",\"then_in_secs\":5}", "debug (in 5 s info again)"),
            ("something newer\n", "something newer"),
        ];
        for (body, text) in rows {
            assert_eq!(said(body), text);
        }
    }
}
