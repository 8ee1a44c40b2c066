//! What every role looks at before it starts: can this machine run a shard, and if not, what would
//! make it able to.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Why no shard can run here: cause and remedy in one line.
#[derive(Debug, thiserror::Error)]
#[error("{cause}; {remedy}")]
pub struct ProbeError {
    cause: String,
    remedy: &'static str,
}

/// Looks whether the kernel gives what a shard needs.
///
/// # Errors
/// What is missing, and the remedy.
pub fn probe() -> Result<(), ProbeError> {
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
            cause: format!("io_uring here lacks the operation {name}"),
            remedy: "cmg needs Linux 6.1 or newer",
        }),
    }
}

fn explain(error: io::Error) -> ProbeError {
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSYS) => "cmg needs Linux 6.1 or newer, built with CONFIG_IO_URING",
        Some(libc::EPERM) => {
            "io_uring is forbidden: set kernel.io_uring_disabled=0, and in a container allow the \
             io_uring_* system calls in its seccomp profile"
        }
        Some(libc::EINVAL) => "cmg needs Linux 6.1 or newer (deferred task running)",
        Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=) to 64 MiB or more",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE=)",
        _ => "see the kernel's message above",
    };
    ProbeError { cause: format!("io_uring cannot be used: {error}"), remedy }
}

/// Raises the soft limit of open files to the hard one. Gives the hard limit.
///
/// # Errors
/// What the kernel says.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the local alone.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_max)
}
