//! What `/proc` says of processes: CPU time, context switches and resident memory.

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
    /// CPU time.
    pub cpu: Option<Cpu>,
    /// Context switches.
    pub switches: Option<Switches>,
    /// Resident bytes, exactly.
    pub resident: Option<u64>,
    /// The most that ever was resident, in bytes.
    pub resident_peak: Option<u64>,
}

/// CPU time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In the program.
    pub user: u64,
    /// In the kernel, for the program.
    pub system: u64,
}

impl Cpu {
    /// Both.
    pub fn all(self) -> u64 {
        self.user + self.system
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

/// Context switches of all threads that live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// A thread had nothing to do.
    pub voluntary: u64,
    /// A thread was made to wait.
    pub involuntary: u64,
}

impl Switches {
    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            voluntary: self.voluntary.saturating_sub(before.voluntary),
            involuntary: self.involuntary.saturating_sub(before.involuntary),
        }
    }
}

/// What costs nearly nothing to read, for a look each second while the process is being measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// CPU time.
    pub cpu: Option<Cpu>,
    /// Resident bytes, as the kernel's counters have them; exact numbers take a walk over the page tables.
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
        Usage {
            cpu: self.cpu(),
            switches: self.sum(switches, |sum, one| Switches {
                voluntary: sum.voluntary + one.voluntary,
                involuntary: sum.involuntary + one.involuntary,
            }),
            resident: self.sum(resident, |sum, one| sum + one),
            resident_peak: self.sum(|pid| line_of_status(pid, "VmHWM:"), |sum, one| sum + one * 1024),
        }
    }

    /// The same, in little.
    pub fn glance(&self) -> Glance {
        Glance { cpu: self.cpu(), resident: self.sum(counted_resident, |sum, one| sum + one) }
    }

    /// CPU time until now in microseconds, finer than the ticks of [`Usage::cpu`].
    pub fn cpu_micros(&self) -> Option<u64> {
        self.sum(cpu_clock, |sum, one| sum + one)
    }

    fn cpu(&self) -> Option<Cpu> {
        self.sum(cpu, |sum, one| Cpu { user: sum.user + one.user, system: sum.system + one.system })
    }

    fn sum<T: Default>(&self, of: impl Fn(u32) -> Option<T>, add: impl Fn(T, T) -> T) -> Option<T> {
        self.pids.iter().try_fold(T::default(), |sum, pid| Some(add(sum, of(*pid)?)))
    }
}

fn cpu(pid: u32) -> Option<Cpu> {
    cpu_of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// What the process's own clock says, which counts nanoseconds; `/proc` counts ticks of 10 ms.
fn cpu_clock(pid: u32) -> Option<u64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls fill what they are given, which lives through them.
    let is_read = unsafe {
        libc::clock_getcpuclockid(libc::pid_t::try_from(pid).ok()?, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    is_read.then(|| time.tv_sec.max(0) as u64 * 1_000_000 + time.tv_nsec.max(0) as u64 / 1000)
}

fn resident(pid: u32) -> Option<u64> {
    let exact = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    exact.as_deref().and_then(resident_of).or_else(|| counted_resident(pid))
}

fn counted_resident(pid: u32) -> Option<u64> {
    // SAFETY: reads a constant of the system.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(pages.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * page)
}

fn line_of_status(pid: u32, name: &str) -> Option<u64> {
    number_behind(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name)
}

fn switches(pid: u32) -> Option<Switches> {
    let mut sum = Switches::default();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end between the two reads; then it counts no more, as all that ended before.
        if let Some(one) =
            std::fs::read_to_string(thread.ok()?.path().join("status")).ok().as_deref().and_then(switches_of)
        {
            sum.voluntary += one.voluntary;
            sum.involuntary += one.involuntary;
        }
    }
    Some(sum)
}

fn switches_of(status: &str) -> Option<Switches> {
    Some(Switches {
        voluntary: number_behind(status, "voluntary_ctxt_switches:")?,
        involuntary: number_behind(status, "nonvoluntary_ctxt_switches:")?,
    })
}

/// User and system time in a line of `/proc/PID/stat`. The command in parentheses may hold anything, blanks included.
fn cpu_of(stat: &str) -> Option<Cpu> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // SAFETY: reads a constant of the system.
    let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    let tick_micros = 1_000_000 / ticks;
    Some(Cpu { user: user * tick_micros, system: system * tick_micros })
}

fn resident_of(smaps: &str) -> Option<u64> {
    Some(number_behind(smaps, "Rss:")? * 1024)
}

/// The number on the line that begins with `name`.
fn number_behind(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
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
        assert_eq!(cpu_of(stat), Some(Cpu { user: 2_500_000, system: 500_000 }));
        assert_eq!(cpu_of("17 (a"), None);
        assert_eq!(cpu_of("17 (a) S 1"), None);
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
        assert!(own.usage().resident_peak >= own.usage().resident);
        assert!(own.usage().cpu.is_some() && own.glance().resident.is_some());
        let (clock, ticks) = (own.cpu_micros().expect("readable"), own.cpu().expect("readable").all());
        assert!(clock.abs_diff(ticks) < 1_000_000, "{clock} {ticks}");
        assert_eq!(Watched { name: "gone".into(), pids: vec![u32::MAX] }.cpu_micros(), None);
        let before = own.usage().switches.expect("readable");
        std::thread::sleep(Duration::from_millis(1));
        let since = own.usage().switches.expect("readable").since(before);
        assert!(since.voluntary > 0, "{since:?}");
    }

    #[test]
    fn nothing_is_told_of_processes_of_which_one_is_gone() {
        let gone = Watched { name: "gone".into(), pids: vec![std::process::id(), u32::MAX] };
        assert_eq!((gone.usage(), gone.glance()), (Usage::default(), Glance::default()));
    }

    #[test]
    fn context_switches_are_two_lines_of_the_status() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(switches_of(status), Some(Switches { voluntary: 7, involuntary: 3 }));
        assert_eq!(switches_of("voluntary_ctxt_switches:\tx\n"), None);
    }
}
