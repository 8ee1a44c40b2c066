//! What several files have in common: key pairs, internal certificates, log and admin listener.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::document::{Expected, Section};
use super::report::Report;
use super::value;

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

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// How much.
    pub level: LogLevel,
    /// Requests.
    pub access_log: AccessLog,
}

/// Reads `[log]`.
pub(super) fn log(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> LogSettings {
    let mut section = root.section(report, "log");
    let level = section.optional(report, "level", log_level).unwrap_or_default();
    let access_log = section.optional(report, "access_log", access_log).unwrap_or_default();
    section.finish(report);
    LogSettings { level, access_log }
}

fn log_level(value: &DeValue<'_>) -> Result<LogLevel, Expected> {
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let found = levels.into_iter().find(|level| value.as_str() == Some(level.as_str()));
    found.ok_or("\"error\", \"warn\", \"info\", \"debug\" or \"trace\"".into())
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
pub(super) fn admin(root: &mut Section<'_, '_>, report: &mut Report<'_>, default: SocketAddr) -> SocketAddr {
    let mut section = root.section(report, "admin");
    let address = section.optional(report, "address", value::loopback_address).unwrap_or(default);
    section.finish(report);
    address
}

/// Reads `ca`, `certificate` and `key` of `[internal]`; the caller finishes the section.
pub(super) fn internal(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<InternalFiles> {
    let ca = section.required(report, "ca", value::path);
    let chain = section.required(report, "certificate", value::path);
    let key = section.required(report, "key", value::path);
    Some(InternalFiles { ca: ca?, identity: KeyPair { chain: chain?, key: key? } })
}

/// Reads `shards`.
pub(super) fn shards(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<u16> {
    let shards =
        section.optional(report, "shards", value::number(1..=u64::from(crate::limits::SHARD_COUNT_MAX)))?;
    u16::try_from(shards).ok()
}
