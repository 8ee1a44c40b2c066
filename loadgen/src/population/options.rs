//! The flags of profiles, and the population they make.

use super::features::{self, FEATURES};
use super::life::{self, Burst, Habits, Schedule};
use super::request::Site;
use super::{People, Purpose};
use crate::tokens::Signer;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A role id that sites really have; for an origin asked directly any will do.
const MANAGEMENT_POINT: u64 = (1 << 56) + 5;

/// What clients are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Managed devices with their timers.
    Population,
}

/// The flags of profiles.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Profiles")]
#[group(skip)]
pub struct Options {
    /// Clients that live like managed devices, instead of one request again and again. Every client has two connections, the
    /// second for its held notification: -c 200 is 100 clients
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["path", "method", "body", "hold", "total", "requests_per_connection", "rate"], requires = "duration")]
    pub profile: Option<Profile>,
    /// Of the population's features only these, of those that have a time in a client's day
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "profile", value_parser = lived_feature)]
    pub features: Vec<usize>,
    /// Try a feature from begin to end, once with each connection; `all` for every one. A line for each step says what was
    /// expected and found; the exit code is 1 when a step failed
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with_all = ["profile", "path", "method", "body", "hold", "total", "duration", "requests_per_connection"], value_parser = feature_or_all)]
    pub feature: Vec<Tried>,
    /// List the features, with what a client does for each, and do nothing else
    #[arg(long)]
    pub list_features: bool,
    /// How much faster than life time goes for the population: 60 makes an hour a minute
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = factor)]
    pub speed: f64,
    /// Begin with all clients starting their day, or coming back after an outage
    #[arg(long, value_name = "KIND", requires = "profile")]
    pub burst: Option<Burst>,
    /// Times of the population's timers: the product's defaults, or some shorter, so that kinds of requests mix as 45 %
    /// notifications, 30 % messages, 12 % policies and locations, 5 % tokens, 5 % upload packets, 3 % scans and content
    #[arg(long, value_name = "NAME", default_value = "product")]
    pub schedule: Schedule,
    /// How long --feature has notifications held, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub notification_hold: u64,
    /// Role id of the management point [default: that of up.json]
    #[arg(long, value_name = "ID")]
    pub management_point: Option<u64>,
    /// Role id of the software update point [default: that of up.json, else the one behind the management point]
    #[arg(long, value_name = "ID")]
    pub software_update_point: Option<u64>,
    /// Show tokens of a directory that are signed with this folder's key (`loadgen tokens`), and those that CCM_STS gives for
    /// them, instead of letters that no site takes [default: that of up.json]
    #[arg(long, value_name = "FOLDER", requires = "feature")]
    pub tokens: Option<PathBuf>,
}

/// One feature, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// This one.
    One(usize),
    /// Every one.
    All,
}

impl Options {
    /// Whether requests come from a population.
    pub fn is_asked_for(&self) -> bool {
        self.profile.is_some() || !self.feature.is_empty()
    }

    /// Whether the population ends by itself.
    pub fn ends(&self) -> bool {
        !self.feature.is_empty()
    }

    /// The population, of so many connections, whose chance begins with `seed`. `url`, `update_point` and `tokens` are those of `up.json`.
    /// Errors: a text for the user.
    pub fn people(
        &self,
        host: &str,
        url: Option<&str>,
        (update_point, tokens): (Option<u64>, Option<&Path>),
        (connections, seed): (u32, u64),
    ) -> Result<People, String> {
        // A population shows none that anybody looks at.
        let tokens = self.tokens.as_deref().or(tokens.filter(|_| self.ends()));
        let signer = tokens.map(Signer::read).transpose()?.map(Arc::new);
        let management_point = self.management_point.or(url.and_then(role_id)).unwrap_or(MANAGEMENT_POINT);
        let update_point = self.software_update_point.or(update_point);
        let site = Site {
            host: host.to_owned(),
            management_point,
            update_point: update_point.unwrap_or(management_point.wrapping_add(1)),
            signer,
        };
        let utc = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(People::new(site, self.purpose(seed), utc, Instant::now(), u64::from(connections)))
    }

    fn purpose(&self, seed: u64) -> Purpose {
        let every = || (0..FEATURES.len()).collect::<Vec<_>>();
        if !self.feature.is_empty() {
            let tried = self.feature.iter().flat_map(|tried| match tried {
                Tried::One(feature) => vec![*feature],
                Tried::All => every(),
            });
            return Purpose::Try(tried.collect(), Duration::from_millis(self.notification_hold));
        }
        Purpose::Life(Habits {
            features: if self.features.is_empty() { every() } else { self.features.clone() },
            schedule: self.schedule,
            burst: self.burst,
            speed: self.speed,
            seed,
        })
    }
}

/// Features and their steps, for people.
pub fn list() -> String {
    let mut out = String::new();
    for feature in FEATURES {
        let _ = writeln!(out, "{}: {}", feature.name, feature.about);
        for step in feature.steps {
            let size = step.size().map_or(String::new(), |size| format!(", {size} bytes"));
            let _ = writeln!(
                out,
                "  {:<28} {:<9} {} -> {}{size}",
                step.name,
                step.method,
                step.path,
                step.status()
            );
        }
    }
    out
}

/// The role id in `https://NAME/FAMILY/ID/…`.
fn role_id(url: &str) -> Option<u64> {
    let path =
        url.split_once("://").map_or(url, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    path.trim_start_matches('/').split('/').nth(1)?.parse().ok()
}

fn feature(name: &str) -> Result<usize, String> {
    features::find(name).ok_or_else(|| format!("no such feature; --list-features has them: {}", names()))
}

fn lived_feature(name: &str) -> Result<usize, String> {
    let found = feature(name)?;
    if life::has_time(name) {
        return Ok(found);
    }
    let lived: Vec<_> =
        FEATURES.iter().map(|feature| feature.name).filter(|name| life::has_time(name)).collect();
    Err(format!(
        "clients have no timer for it and would never ask; `--feature {name}` tries it. With timers: {}",
        lived.join(", ")
    ))
}

fn feature_or_all(name: &str) -> Result<Tried, String> {
    if name == "all" { Ok(Tried::All) } else { feature(name).map(Tried::One) }
}

fn names() -> String {
    FEATURES.iter().map(|feature| feature.name).collect::<Vec<_>>().join(", ")
}

fn factor(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|factor: &f64| factor.is_finite() && (0.01..=100_000.0).contains(factor))
        .ok_or_else(|| "expected a number from 0.01 to 100000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_id_is_read_from_a_url_or_a_path() {
        for (url, id) in [
            (
                "https://cmg.example:8443/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/.sms_aut?MPLIST",
                Some(MANAGEMENT_POINT),
            ),
            ("/CCM_Proxy_MutualAuth/9/x", Some(9)),
            ("https://cmg.example", None),
            ("/x", None),
        ] {
            assert_eq!(role_id(url), id, "{url}");
        }
    }

    #[test]
    fn a_population_uses_only_what_has_a_time() {
        for feature in FEATURES {
            let expected = life::has_time(feature.name).then(|| features::find(feature.name).expect("known"));
            assert_eq!(lived_feature(feature.name).ok(), expected, "{}", feature.name);
        }
        let text = lived_feature("user-apps").expect_err("no timer");
        assert!(text.contains("`--feature user-apps`") && text.contains("policy, state-messages"), "{text}");
        assert!(!text.contains("task-sequence") && text.contains("cmpivot"), "{text}");
        assert!(lived_feature("polic").expect_err("unknown").contains("no such feature"));
    }

    #[test]
    fn features_are_known_by_name() {
        assert_eq!(feature_or_all("all"), Ok(Tried::All));
        assert_eq!(feature_or_all("policy"), Ok(Tried::One(features::find("policy").expect("known"))));
        assert!(feature("polic").expect_err("unknown").contains("update-scan"));
        assert!(list().contains("compliance: "));
    }
}
