//! Where a report comes from: which program, run when, with which flags.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What made a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// `loadgen`'s version.
    pub version: String,
    /// The commit it was built from, when it was built in a repository.
    pub commit: Option<String>,
    /// When the run began, in UTC (RFC 3339).
    pub started: String,
    /// What ids and random choices of the run begin with.
    pub seed: u64,
    /// All flags by their long names, with defaults.
    pub flags: Flags,
}

/// Flags with their values; one given several times has several.
pub type Flags = BTreeMap<String, Vec<String>>;

impl Provenance {
    /// Of this program, for a run that began at `started`.
    pub fn new(started: SystemTime, seed: u64, flags: Flags) -> Self {
        let moment = OffsetDateTime::from(started).replace_nanosecond(0);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("LOADGEN_COMMIT").map(str::to_owned),
            started: moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default(),
            seed,
            flags,
        }
    }
}

/// All flags of `command`, with the values that hold; those that are off or have none are left out.
pub fn flags_of(command: &clap::Command, matches: &clap::ArgMatches) -> Flags {
    let value = |argument: &clap::Arg| {
        let id = argument.get_id().as_str();
        let name = argument.get_long().unwrap_or(id).to_owned();
        let raw = matches.try_get_raw(id).ok().flatten()?;
        let values: Vec<_> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        (values != ["false"]).then_some((name, values))
    };
    command.get_arguments().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;
    use std::time::Duration;

    #[derive(clap::Args)]
    struct Some {
        #[arg(long)]
        is_on: bool,
        #[arg(long)]
        is_off: bool,
        #[arg(long, default_value_t = 7)]
        count: u8,
        #[arg(long, value_delimiter = ',')]
        names: Vec<String>,
        #[arg(long)]
        missing: Option<u8>,
    }

    #[test]
    fn all_flags_are_told_with_their_defaults() {
        let mut command = Some::augment_args(clap::Command::new("x"));
        command.build();
        let matches =
            command.clone().try_get_matches_from(["x", "--is-on", "--names", "a,b"]).expect("valid");
        let flags = flags_of(&command, &matches);
        let expected = [("count", vec!["7"]), ("is-on", vec!["true"]), ("names", vec!["a", "b"])];
        let expected: Flags = expected
            .map(|(name, values)| (name.to_owned(), values.into_iter().map(str::to_owned).collect()))
            .into();
        assert_eq!(flags, expected);
    }

    #[test]
    fn the_date_is_in_utc_to_the_second() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        assert_eq!(Provenance::new(moment, 1, Flags::new()).started, "2023-11-14T22:13:20Z");
    }
}
