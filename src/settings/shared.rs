//! What several files have in common: key pairs, internal certificates, log and admin listener.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::document::{Expected, Section};
use super::report::Report;
use super::value;
use crate::limits;

/// A certificate chain and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyPair {
    /// Leaf first.
    pub chain: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// What the roles know one another by, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalFiles {
    /// Certificates of the internal CA.
    pub ca: PathBuf,
    /// This role's own.
    pub identity: KeyPair,
    /// Lists of the internal CA, PEM or DER; who is on one is not believed. `None`: they come over channels alone.
    pub crl: Option<PathBuf>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What broke.
    Error,
    /// What may break.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// What was decided.
    Debug,
    /// What was seen.
    Trace,
}

impl LogLevel {
    /// From the least to the most.
    pub const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

    /// By its name as written.
    pub fn parse(text: &str) -> Option<LogLevel> {
        LogLevel::ALL.into_iter().find(|level| level.as_str() == text)
    }

    /// As written.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Where one line per request goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output.
    Standard,
    /// To a file.
    File(PathBuf),
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and journals.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// As the original's server logs, for the viewers made for them.
    CmTrace,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// How much.
    pub level: LogLevel,
    /// How a line is written.
    pub format: LogFormat,
    /// Requests.
    pub access_log: AccessLog,
    /// Of so many requests one gets its line; those turned away always do.
    pub access_log_one_in: u32,
    /// Bytes at which the access log's file is renamed and begun anew; one renamed file is kept.
    pub access_log_size_max: u64,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            level: LogLevel::default(),
            format: LogFormat::default(),
            access_log: AccessLog::default(),
            access_log_one_in: 1,
            access_log_size_max: limits::ACCESS_LOG_SIZE_MAX_DEFAULT,
        }
    }
}

/// How an admin listener off loopback is protected, PEM files and a file with the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminProtection {
    /// What it shows of itself.
    pub identity: KeyPair,
    /// What who asks must bear.
    pub token_file: PathBuf,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// `/status`, `/metrics` and both below.
    pub address: SocketAddr,
    /// Always there where `address` is not on loopback.
    pub protection: Option<AdminProtection>,
    /// `/healthz` and `/readyz` alone, without TLS, for load balancers and container platforms.
    pub health_address: Option<SocketAddr>,
    /// The Unix socket by which the running role is changed; `None`: beside the settings file, named
    /// like it.
    pub socket: Option<PathBuf>,
    /// The Unix socket at which another process asks for this one's place; `None`: beside the other one.
    pub upgrade_socket: Option<PathBuf>,
}

/// Reads `[log]`.
pub(super) fn log(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> LogSettings {
    let mut section = root.section(report, "log");
    let level = section.optional(report, "level", log_level).unwrap_or_default();
    let format = section.optional(report, "format", log_format).unwrap_or_default();
    let access_log = section.optional(report, "access_log", access_log).unwrap_or_default();
    let one_in = section.optional(report, "access_log_one_in", value::number(1..=1_000_000));
    let size_mib = section.optional(report, "access_log_size_mib", value::number(1..=1_048_576));
    section.finish(report);
    LogSettings {
        level,
        format,
        access_log,
        access_log_one_in: one_in.and_then(|count| count.try_into().ok()).unwrap_or(1),
        access_log_size_max: size_mib.map_or(limits::ACCESS_LOG_SIZE_MAX_DEFAULT, |mib| mib << 20),
    }
}

fn log_format(value: &DeValue<'_>) -> Result<LogFormat, Expected> {
    match value.as_str() {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some("cmtrace") => Ok(LogFormat::CmTrace),
        _ => Err("\"text\", \"json\" or \"cmtrace\"".into()),
    }
}

fn log_level(value: &DeValue<'_>) -> Result<LogLevel, Expected> {
    value
        .as_str()
        .and_then(LogLevel::parse)
        .ok_or("\"error\", \"warn\", \"info\", \"debug\" or \"trace\"".into())
}

fn access_log(found: &DeValue<'_>) -> Result<AccessLog, Expected> {
    match found {
        DeValue::Boolean(false) => Ok(AccessLog::Off),
        DeValue::Boolean(true) => Ok(AccessLog::Standard),
        found => {
            value::path(found).map(AccessLog::File).map_err(|_| "true, false or the path of a file".into())
        }
    }
}

/// Reads `[admin]`.
pub(super) fn admin(
    root: &mut Section<'_, '_>,
    report: &mut Report<'_>,
    default: SocketAddr,
) -> AdminSettings {
    let mut section = root.section(report, "admin");
    let address = section.optional(report, "address", value::listen_address).unwrap_or(default);
    let chain = section.optional(report, "certificate", value::path);
    let key = section.optional(report, "key", value::path);
    let token_file = section.optional(report, "token_file", value::path);
    let health_address = section.optional(report, "health_address", value::listen_address);
    let socket = section.optional(report, "socket", value::path);
    let upgrade_socket = section.optional(report, "upgrade_socket", value::path);
    section.finish(report);
    let keys = ["certificate", "key", "token_file"];
    let written = keys.iter().filter(|key| section.has(key)).count();
    if !address.ip().is_loopback() && written == 0 {
        let expected = "a loopback address, or certificate, key and token_file beside this one: off loopback \
                        the listener needs TLS and a token (health_address takes /healthz and /readyz alone)";
        report.add(section.key("address"), section.place("address"), format!("\"{address}\""), expected);
    } else if (1..keys.len()).contains(&written) {
        let missing: Vec<_> = keys.into_iter().filter(|key| !section.has(key)).collect();
        let found = format!("no {}", missing.join(" and no "));
        let expected = "certificate, key and token_file together, or none of them";
        report.add(section.key(""), section.place("address"), found, expected);
    }
    if health_address == Some(address) && address.port() != 0 {
        let found = format!("\"{address}\", which is also admin.address");
        report.add(section.key("health_address"), section.place("health_address"), found, "another port");
    }
    let identity = chain.zip(key).map(|(chain, key)| KeyPair { chain, key });
    let protection =
        identity.zip(token_file).map(|(identity, token_file)| AdminProtection { identity, token_file });
    AdminSettings { address, protection, health_address, socket, upgrade_socket }
}

/// Reads `ca`, `certificate`, `key` and `crl` of `[internal]`; the caller finishes the section.
pub(super) fn internal(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<InternalFiles> {
    let ca = section.required(report, "ca", value::path);
    let chain = section.required(report, "certificate", value::path);
    let key = section.required(report, "key", value::path);
    let crl = section.optional(report, "crl", value::path);
    Some(InternalFiles { ca: ca?, identity: KeyPair { chain: chain?, key: key? }, crl })
}

/// Reads `shards`.
pub(super) fn shards(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<u16> {
    let shards = section.optional(report, "shards", value::number(1..=u64::from(limits::SHARD_COUNT_MAX)))?;
    u16::try_from(shards).ok()
}
