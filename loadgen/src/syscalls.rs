//! How many system calls processes make, counted by the kernel's own tracepoint `raw_syscalls:sys_enter`.
//!
//! `/proc` counts reads and writes alone, and a ring is entered by neither. Counting costs the counted process a little at
//! every call, so that it is done in a window of its own, beside the measured time. It takes the right to trace
//! (root, or CAP_PERFMON with a readable tracefs); without it the reason is told and nothing is counted.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The most threads of one process that are counted; each takes a descriptor.
const THREADS_MAX: usize = 1024;
const EVENT: &CStr = c"events/raw_syscalls/sys_enter/id";

/// A count that goes on from when it was made.
#[derive(Debug)]
pub struct Counter {
    threads: Vec<File>,
}

impl Counter {
    /// Counts for all threads of these processes, and those they start. Errors: why it cannot be.
    pub fn begin(pids: &[u32]) -> Result<Self, String> {
        let event = event_id().map_err(|error| format!("tracepoint raw_syscalls:sys_enter: {error}"))?;
        let mut threads = Vec::new();
        for pid in pids {
            let folder = std::fs::read_dir(format!("/proc/{pid}/task"))
                .map_err(|error| format!("process {pid}: {error}"))?;
            for thread in folder {
                let name = thread.map_err(|error| format!("process {pid}: {error}"))?.file_name();
                let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
                if threads.len() == THREADS_MAX {
                    return Err(format!("process {pid}: more than {THREADS_MAX} threads"));
                }
                match open(event, id) {
                    Ok(counter) => threads.push(counter),
                    // It ended since the folder was read.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) => return Err(format!("perf_event_open: {error}")),
                }
            }
        }
        Ok(Self { threads })
    }

    /// Calls until now.
    pub fn read(&self) -> io::Result<u64> {
        let mut sum = 0;
        for thread in &self.threads {
            let mut count = [0; 8];
            (&mut &*thread).read_exact(&mut count)?;
            sum += u64::from_ne_bytes(count);
        }
        Ok(sum)
    }
}

/// The part of the kernel's `perf_event_attr` that its first version had; the kernel takes it by its size.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint: u32,
    config1: u64,
}

const KIND_TRACEPOINT: u32 = 2;
/// Threads and children started later are counted with the thread that started them.
const FLAG_INHERIT: u64 = 1 << 1;

fn open(event: u64, thread: libc::pid_t) -> io::Result<File> {
    let attributes = Attributes {
        kind: KIND_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: event,
        flags: FLAG_INHERIT,
        ..Attributes::default()
    };
    let (any_cpu, no_group) = (-1, -1);
    // SAFETY: the attributes live through the call and say their own size; the kernel writes nothing behind it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    owned(result).map(File::from)
}

const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// The tracepoint's number: from where tracefs is mounted, else from a mount that only this process sees.
fn event_id() -> io::Result<u64> {
    let event = EVENT.to_str().expect("a constant of ASCII");
    let mounted = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let found = mounted.iter().find_map(|root| std::fs::read_to_string(format!("{root}/{event}")).ok());
    let text = match found {
        Some(text) => text,
        None => read_detached()?,
    };
    text.trim().parse().map_err(|_| io::Error::other("its id is no number"))
}

/// Reads the id from a tracefs that is attached nowhere, so that nothing of the system changes.
fn read_detached() -> io::Result<String> {
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: each call is given names that end with a zero and live through it, and descriptors that are open.
    let event = unsafe {
        let system = owned(libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1))?;
        let made = libc::syscall(libc::SYS_fsconfig, system.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0);
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        let mount = owned(libc::syscall(libc::SYS_fsmount, system.as_raw_fd(), 1, 0))?;
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        owned(libc::c_long::from(libc::openat(mount.as_raw_fd(), EVENT.as_ptr(), flags)))?
    };
    let mut text = String::new();
    File::from(event).read_to_string(&mut text)?;
    Ok(text)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel just gave this descriptor, and nobody else has it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root the calls of a child are counted; elsewhere the reason is a text.
    #[test]
    fn calls_are_counted_or_it_is_said_why_not() {
        match Counter::begin(&[std::process::id()]) {
            Ok(counter) => {
                let before = counter.read().expect("read");
                for _ in 0..100 {
                    // SAFETY: a call without arguments or effects.
                    unsafe { libc::syscall(libc::SYS_getppid) };
                }
                let calls = counter.read().expect("read") - before;
                assert!(calls >= 100, "{calls}");
            }
            Err(reason) => assert!(reason.contains("perf_event_open") || reason.contains("tracepoint")),
        }
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let reason = Counter::begin(&[u32::MAX]).expect_err("no such process");
        assert!(reason.contains("4294967295") || reason.contains("tracepoint"), "{reason}");
    }
}
