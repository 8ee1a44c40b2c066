//! What every role looks at before it starts: can this machine run a shard, and if not, what would
//! make it able to.

use std::fmt;
use std::fs;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::limits;
use crate::settings::{ConnectorSettings, GatewaySettings};

/// What a role wants of the machine besides shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Clients connected at once, over all shards.
    pub clients_max: u32,
    /// Shards; 0 is one for each CPU allowed.
    pub shards: u16,
}

impl Needs {
    /// Those of a gateway with these settings.
    pub fn of_gateway(settings: &GatewaySettings) -> Needs {
        Needs { clients_max: settings.clients_max, shards: settings.shards.unwrap_or(0) }
    }

    /// Those of a connection point with these settings.
    pub fn of_connector(settings: &ConnectorSettings) -> Needs {
        Needs { clients_max: 0, shards: settings.shards.unwrap_or(0) }
    }

    fn shards(&self) -> u64 {
        match self.shards {
            0 => super::allowed_cpus().len() as u64,
            shards => u64::from(shards),
        }
    }
}

/// Why no shard can run here: cause and remedy in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}; {remedy}")]
pub struct ProbeError {
    /// What was found.
    pub cause: String,
    /// What would help.
    pub remedy: String,
}

/// Everything that is in the way; at least one. Displays one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeErrors(pub Vec<ProbeError>);

impl fmt::Display for ProbeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|error| format!("this machine: {error}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ProbeErrors {}

/// Locked memory below which the executor does not start, whoever runs it.
const LOCKED_MEMORY_MIN: u64 = 512 * 1024;
/// What a shard's rings lock where the kernel counts them: measured on Linux 6.18 are 1,101 KiB for one
/// shard, 2,124 for two, 4,201 for four.
const LOCKED_MEMORY_OF_SHARD: u64 = 1_056 * 1024;
/// The same of a process with no shard.
const LOCKED_MEMORY_OF_PROCESS: u64 = 64 * 1024;
/// The oldest kernel with all that a shard uses.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Looks whether the machine gives what a role with these needs uses. Soft limits are raised to the hard
/// ones first, as the role itself does.
///
/// # Errors
/// All that is missing, each with its remedy.
pub fn probe(needs: &Needs) -> Result<(), ProbeErrors> {
    let found = [open_files(needs), locked_memory(needs), ring()];
    let errors: Vec<ProbeError> = found.into_iter().filter_map(Result::err).collect();
    if errors.is_empty() { Ok(()) } else { Err(ProbeErrors(errors)) }
}

fn ring() -> Result<(), ProbeError> {
    let explain = |error: io::Error| explain(&error, &Facts::read());
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(8)
        .map_err(explain)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(explain)?;
    let needed = [
        ("accept", opcode::Accept::CODE),
        ("connect", opcode::Connect::CODE),
        ("recv", opcode::Recv::CODE),
        ("send", opcode::Send::CODE),
        ("close", opcode::Close::CODE),
        ("shutdown", opcode::Shutdown::CODE),
        ("timeout", opcode::Timeout::CODE),
        ("async_cancel", opcode::AsyncCancel::CODE),
    ];
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((name, _)) => Err(ProbeError {
            cause: format!("io_uring of kernel {} lacks the operation {name}", Facts::read().release),
            remedy: too_old(),
        }),
    }
}

/// What tells one cause of an error from another.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// Of the kernel, as `uname -r` says it.
    release: String,
    /// `kernel.io_uring_disabled`; `None` where the kernel does not know it.
    disabled: Option<u32>,
    /// Whether a filter of system calls is on this process.
    is_filtered: bool,
}

impl Facts {
    fn read() -> Facts {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Facts {
            release: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            disabled: text("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            is_filtered: seccomp.is_some_and(|mode| mode.trim() == "2"),
        }
    }

    fn is_new_enough(&self) -> bool {
        let mut numbers = self.release.split(|sign: char| !sign.is_ascii_digit()).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= KERNEL_MIN,
            _ => false,
        }
    }
}

fn too_old() -> String {
    format!("cmg needs Linux {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1)
}

const ALLOW: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of the \
                     container or unit (SystemCallFilter=)";

fn explain(error: &io::Error, facts: &Facts) -> ProbeError {
    let release = &facts.release;
    let (cause, remedy) = match error.raw_os_error() {
        Some(libc::ENOSYS) if facts.is_filtered && facts.is_new_enough() => {
            ("a seccomp filter hides io_uring (ENOSYS)".to_owned(), ALLOW.to_owned())
        }
        Some(libc::ENOSYS) if facts.is_new_enough() => (
            format!("kernel {release} is built without io_uring (ENOSYS)"),
            "use a kernel with CONFIG_IO_URING=y".to_owned(),
        ),
        Some(libc::ENOSYS) => (format!("kernel {release} has no io_uring (ENOSYS)"), too_old()),
        Some(libc::EPERM | libc::EACCES) => forbidden(facts),
        Some(libc::EINVAL) => {
            (format!("io_uring of kernel {release} lacks deferred task running (EINVAL)"), too_old())
        }
        Some(libc::ENOMEM) => (
            "io_uring cannot lock memory (ENOMEM)".to_owned(),
            "raise the limit of locked memory, which all processes of one user share (ulimit -Hl, \
             LimitMEMLOCK=), to 64 MiB or more"
                .to_owned(),
        ),
        Some(libc::EMFILE) => (
            "io_uring gets no descriptor (EMFILE)".to_owned(),
            "raise the limit of open files (ulimit -n, LimitNOFILE=)".to_owned(),
        ),
        Some(libc::ENFILE) => (
            "io_uring gets no descriptor (ENFILE)".to_owned(),
            "raise the system's own limit of open files (sysctl fs.file-max)".to_owned(),
        ),
        _ => (
            format!("io_uring of kernel {release} cannot be used: {error}"),
            format!("{}, and io_uring allowed", too_old()),
        ),
    };
    ProbeError { cause, remedy }
}

fn forbidden(facts: &Facts) -> (String, String) {
    match facts.disabled {
        Some(2) => (
            "io_uring is forbidden to everybody: kernel.io_uring_disabled is 2 (EPERM)".to_owned(),
            "sysctl kernel.io_uring_disabled=0".to_owned(),
        ),
        Some(1) if !facts.is_filtered => (
            "io_uring is forbidden to this user: kernel.io_uring_disabled is 1 (EPERM)".to_owned(),
            "put the user into the group that kernel.io_uring_group names, or sysctl kernel.io_uring_disabled=0"
                .to_owned(),
        ),
        _ if facts.is_filtered => ("a seccomp filter forbids io_uring (EPERM)".to_owned(), ALLOW.to_owned()),
        _ => (
            "a security module forbids io_uring (EPERM)".to_owned(),
            "allow it in the policy (SELinux, AppArmor) of this process".to_owned(),
        ),
    }
}

fn open_files(needs: &Needs) -> Result<(), ProbeError> {
    let hard = raise_open_files().map_err(|error| ProbeError {
        cause: format!("the limit of open files cannot be raised: {error}"),
        remedy: "see ulimit -n and LimitNOFILE=".to_owned(),
    })?;
    judge_open_files(hard, needs.clients_max, needs.shards())
}

/// Each shard has a table of descriptors as large as the limit allows, up to its own bound.
fn judge_open_files(hard: u64, clients_max: u32, shards: u64) -> Result<(), ProbeError> {
    let reserve = u64::from(limits::OPEN_FILES_RESERVE);
    let outgoing = u64::from(limits::OUTGOING_SLOTS);
    let least = reserve + outgoing;
    let room = hard.saturating_sub(least) * shards;
    let is_bounded_by_limit = hard < u64::from(limits::DIRECT_SLOTS_MAX) + reserve;
    if hard >= least && (!is_bounded_by_limit || room >= u64::from(clients_max)) {
        return Ok(());
    }
    let wanted = u64::from(clients_max).div_ceil(shards.max(1)) + least;
    let wanted = wanted.min(u64::from(limits::DIRECT_SLOTS_MAX) + reserve);
    let (cause, other) = if clients_max == 0 {
        (format!("{hard} open files are too few"), String::new())
    } else {
        let lower =
            if room > 0 { format!(", or lower gateway.clients_max to {room}") } else { String::new() };
        (format!("{hard} open files are too few for {clients_max} clients on {shards} shards"), lower)
    };
    Err(ProbeError {
        cause,
        remedy: format!("raise the hard limit to {wanted} or more (ulimit -Hn, LimitNOFILE=){other}"),
    })
}

fn locked_memory(needs: &Needs) -> Result<(), ProbeError> {
    // A limit that cannot be read or raised shows itself when the shard starts.
    let limit = raise(libc::RLIMIT_MEMLOCK).unwrap_or(u64::MAX);
    judge_locked_memory(limit, needs.shards(), counts_rings)
}

fn judge_locked_memory(limit: u64, shards: u64, counts_rings: fn() -> bool) -> Result<(), ProbeError> {
    let wanted = (shards * LOCKED_MEMORY_OF_SHARD + LOCKED_MEMORY_OF_PROCESS).max(LOCKED_MEMORY_MIN);
    if limit >= wanted || limit >= LOCKED_MEMORY_MIN && !counts_rings() {
        return Ok(());
    }
    let fitting = limit.saturating_sub(LOCKED_MEMORY_OF_PROCESS) / LOCKED_MEMORY_OF_SHARD;
    let lower = if fitting > 0 && limit >= LOCKED_MEMORY_MIN {
        format!(", or lower shards to {fitting}")
    } else {
        String::new()
    };
    Err(ProbeError {
        cause: format!("{} KiB of locked memory are too few for {shards} shards", limit / 1024),
        remedy: format!(
            "raise the limit to {} KiB or more for all roles of one user together (ulimit -Hl, \
             LimitMEMLOCK=){lower}",
            wanted / 1024
        ),
    })
}

/// Whether this kernel counts a ring as locked memory of this process: older ones do not, and never for
/// who has CAP_IPC_LOCK. Tried with a ring that no limit of nothing would allow; one that fails leaves
/// nothing behind.
fn counts_rings() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read or write the locals alone; the limit is put back to what it was.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) != 0 {
            return false;
        }
        let none = libc::rlimit { rlim_cur: 0, ..limit };
        if libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none) != 0 {
            return false;
        }
        let tried: io::Result<IoUring> = IoUring::builder().build(8);
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
        tried.is_err_and(|error| error.raw_os_error() == Some(libc::ENOMEM))
    }
}

/// What a ring that could not be made says to who started the role.
pub(super) fn explained(error: io::Error) -> io::Error {
    let kind = error.kind();
    io::Error::new(kind, explain(&error, &Facts::read()))
}

/// Raises the soft limit of open files to the hard one. Gives the hard limit.
///
/// # Errors
/// What the kernel says.
pub fn raise_open_files() -> io::Result<u64> {
    raise(libc::RLIMIT_NOFILE)
}

fn raise(which: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the local alone.
    unsafe {
        if libc::getrlimit(which, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(which, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_remedy() {
        let new = "6.6.1-generic";
        let old = "5.15.0-91";
        let rows = [
            (libc::ENOSYS, new, Some(0), true, "seccomp filter hides", "io_uring_setup"),
            (libc::ENOSYS, new, Some(0), false, "built without", "CONFIG_IO_URING"),
            (libc::ENOSYS, "4.4.0", None, true, "kernel 4.4.0", "6.1 or newer"),
            (libc::EPERM, new, Some(2), false, "io_uring_disabled is 2", "io_uring_disabled=0"),
            (libc::EPERM, new, Some(2), true, "io_uring_disabled is 2", "io_uring_disabled=0"),
            (libc::EPERM, new, Some(1), false, "io_uring_disabled is 1", "io_uring_group"),
            (libc::EPERM, new, Some(0), true, "seccomp filter forbids", "SystemCallFilter"),
            (libc::EPERM, new, None, true, "seccomp filter forbids", "SystemCallFilter"),
            (libc::EPERM, new, Some(0), false, "security module", "SELinux"),
            (libc::EINVAL, old, None, false, "kernel 5.15.0-91 lacks deferred", "6.1 or newer"),
            (libc::ENOMEM, new, None, false, "lock memory", "LimitMEMLOCK"),
            (libc::EMFILE, new, None, false, "EMFILE", "LimitNOFILE"),
            (libc::ENFILE, new, None, false, "ENFILE", "fs.file-max"),
            (libc::EIO, new, None, false, "cannot be used", "6.1"),
        ];
        for (errno, release, disabled, is_filtered, cause, remedy) in rows {
            let facts = Facts { release: release.to_owned(), disabled, is_filtered };
            let error = explain(&io::Error::from_raw_os_error(errno), &facts);
            assert!(error.cause.contains(cause) && error.remedy.contains(remedy), "{errno}: {error}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        let rows = [
            ("6.1.0-18-amd64", true),
            ("6.10", true),
            ("10.0.1", true),
            ("6.0.19", false),
            ("5.99", false),
            ("", false),
            ("six", false),
        ];
        for (release, good) in rows {
            let facts = Facts { release: release.to_owned(), ..Facts::default() };
            assert_eq!(facts.is_new_enough(), good, "{release}");
        }
    }

    #[test]
    fn open_files_are_judged_by_what_the_settings_want() {
        // Hard limit, clients, shards; whether it is enough.
        let most = u64::from(limits::DIRECT_SLOTS_MAX + limits::OPEN_FILES_RESERVE);
        let least = u64::from(limits::OPEN_FILES_RESERVE + limits::OUTGOING_SLOTS);
        let rows = [
            (most, 18_000, 1, true),
            (1 << 20, 10_000_000, 1, true),
            (least + 100, 100, 1, true),
            (least + 100, 101, 1, false),
            (least + 100, 200, 2, true),
            (4_096, 18_000, 2, false),
            (64, 0, 1, false),
            (least, 0, 1, true),
        ];
        for (hard, clients, shards, good) in rows {
            let judged = judge_open_files(hard, clients, shards);
            assert_eq!(judged.is_ok(), good, "{hard} {clients} {shards}: {judged:?}");
        }
        let error = judge_open_files(4_096, 18_000, 2).unwrap_err().to_string();
        assert!(error.contains("4096 open files") && error.contains("clients_max to"), "{error}");
    }

    #[test]
    fn locked_memory_is_wanted_for_each_shard_where_it_is_counted() {
        // Limit in KiB, shards, whether rings are counted; whether it is enough.
        let rows = [
            (8_192, 7, true, true),
            (8_192, 8, true, false),
            (8_192, 8, false, true),
            (1_120, 1, true, true),
            (1_119, 1, true, false),
            (512, 2, false, true),
            (511, 0, false, false),
            (u64::MAX / 1024, 256, true, true),
        ];
        for (limit, shards, is_counted, good) in rows {
            let counts: fn() -> bool = if is_counted { || true } else { || false };
            let judged = judge_locked_memory(limit * 1024, shards, counts);
            assert_eq!(judged.is_ok(), good, "{limit} {shards} {is_counted}: {judged:?}");
        }
        let error = judge_locked_memory(8_192 * 1024, 8, || true).unwrap_err().to_string();
        assert!(error.contains("8512 KiB") && error.contains("lower shards to 7"), "{error}");
    }

    #[test]
    fn this_machine_can_run_a_shard() {
        assert_eq!(probe(&Needs::default()), Ok(()));
    }
}
