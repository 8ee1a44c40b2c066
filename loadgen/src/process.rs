//! What `/proc` says of processes: CPU time and resident memory.

use std::time::Duration;

/// Processes to watch under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// What they are called in the report.
    pub name: String,
    /// Their numbers; what they use is added up.
    pub pids: Vec<u32>,
}

/// What they had used at one moment; `None` where it could not be read, for example because one is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, in microseconds.
    pub cpu_micros: Option<u64>,
    /// Resident bytes.
    pub resident: Option<u64>,
}

impl Watched {
    /// Reads `gateway=123`, or `nginx=12+13` for several under one name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, pids) = text.split_once('=').ok_or("expected NAME=PID")?;
        let pid = |text: &str| text.trim().parse().map_err(|_| format!("{text:?} is no process id"));
        Ok(Self { name: name.trim().to_owned(), pids: pids.split('+').map(pid).collect::<Result<_, _>>()? })
    }

    /// What they have used until now.
    pub fn usage(&self) -> Usage {
        let sum = |of: fn(u32) -> Option<u64>| self.pids.iter().map(|pid| of(*pid)).sum();
        Usage { cpu_micros: sum(cpu_micros), resident: sum(resident) }
    }
}

fn cpu_micros(pid: u32) -> Option<u64> {
    cpu_micros_of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn resident(pid: u32) -> Option<u64> {
    let exact = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    if let Some(bytes) = exact.as_deref().and_then(resident_of) {
        return Some(bytes);
    }
    // SAFETY: reads a constant of the system.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(pages.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * page)
}

/// User plus system time in a line of `/proc/PID/stat`. The command in parentheses may hold anything, blanks included.
fn cpu_micros_of(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // SAFETY: reads a constant of the system.
    let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    Some((user + system) * (1_000_000 / ticks))
}

fn resident_of(smaps: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// CPU time of this process until now.
pub fn own_cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills the struct, and zeroes are a valid one should it fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.max(0) as u64) + Duration::from_micros(value.tv_usec.max(0) as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_hostile_command_name() {
        let stat = "17 (a) R 9 (b) S 1 17 17 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 3 0 100 1000 200";
        assert_eq!(cpu_micros_of(stat), Some(3_000_000));
        assert_eq!(cpu_micros_of("17 (a"), None);
        assert_eq!(cpu_micros_of("17 (a) S 1"), None);
    }

    #[test]
    fn resident_bytes_come_from_the_rollup() {
        assert_eq!(resident_of("00400000-7fff [rollup]\nRss:    1234 kB\nPss: 7 kB\n"), Some(1234 * 1024));
        assert_eq!(resident_of(""), None);
    }

    #[test]
    fn a_watched_process_is_a_name_and_a_number() {
        assert_eq!(Watched::parse("gateway=12"), Ok(Watched { name: "gateway".into(), pids: vec![12] }));
        assert_eq!(Watched::parse("nginx=12+13"), Ok(Watched { name: "nginx".into(), pids: vec![12, 13] }));
        assert!(Watched::parse("gateway").is_err() && Watched::parse("gateway=x").is_err());
    }

    #[test]
    fn this_process_has_memory() {
        let own = Watched { name: "own".into(), pids: vec![std::process::id()] };
        assert!(own.usage().resident.is_some_and(|bytes| bytes > 100_000));
        assert!(own.usage().cpu_micros.is_some());
    }
}
