//! What machine a run was made on, as the machine itself tells it: facts that change figures.
//!
//! Values are kept as found, without judgement; whether they suit a role is for the checker of `tuning/` to say.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

/// Facts by name. One that cannot be read is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Machine(pub BTreeMap<String, String>);

/// Facts that are the content of one small file.
const FILES: &[(&str, &str)] = &[
    ("kernel", "/proc/sys/kernel/osrelease"),
    ("kernel_build", "/proc/sys/kernel/version"),
    ("congestion_control", "/proc/sys/net/ipv4/tcp_congestion_control"),
    ("port_range", "/proc/sys/net/ipv4/ip_local_port_range"),
    ("somaxconn", "/proc/sys/net/core/somaxconn"),
    ("syn_backlog", "/proc/sys/net/ipv4/tcp_max_syn_backlog"),
    ("tcp_mem", "/proc/sys/net/ipv4/tcp_mem"),
    ("tcp_rmem", "/proc/sys/net/ipv4/tcp_rmem"),
    ("tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem"),
    ("io_uring_disabled", "/proc/sys/kernel/io_uring_disabled"),
    ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    ("smt", "/sys/devices/system/cpu/smt/control"),
    ("clock_source", "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    ("transparent_huge_pages", "/sys/kernel/mm/transparent_hugepage/enabled"),
    ("load_average", "/proc/loadavg"),
];

/// Facts that say what happened, not what the machine is: two runs on one machine differ in them.
pub const CHANGING: &[&str] = &["load_average", "cpu_mhz", "memory_available"];

impl Machine {
    /// This machine, now.
    pub fn look() -> Self {
        let mut facts = BTreeMap::new();
        let mut tell = |name: &str, value: Option<String>| {
            let value = value.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "));
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                facts.insert(name.to_owned(), value);
            }
        };
        let read = |path: &str| fs::read_to_string(path).ok();
        for (name, path) in FILES {
            tell(name, read(path));
        }
        tell("architecture", Some(std::env::consts::ARCH.into()));
        tell("cpus", std::thread::available_parallelism().ok().map(|count| count.to_string()));
        let cpu = read("/proc/cpuinfo").unwrap_or_default();
        tell("cpu_model", value_of(&cpu, "model name"));
        tell("cpu_mhz", value_of(&cpu, "cpu MHz"));
        let memory = read("/proc/meminfo").unwrap_or_default();
        tell("memory", value_of(&memory, "MemTotal"));
        tell("memory_available", value_of(&memory, "MemAvailable"));
        tell("huge_pages", value_of(&memory, "HugePages_Total"));
        tell("swap", value_of(&memory, "SwapTotal"));
        tell("system", read("/etc/os-release").and_then(|text| quoted(&text, "PRETTY_NAME=")));
        tell("virtualisation", Some(virtualisation(&cpu, &read)));
        tell("open_files", limit(libc::RLIMIT_NOFILE));
        tell("memlock", limit(libc::RLIMIT_MEMLOCK));
        for (name, state) in mitigations() {
            tell(&format!("mitigation_{name}"), Some(state));
        }
        Self(facts)
    }
}

/// The value behind `name` and a colon.
fn value_of(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn quoted(text: &str, name: &str) -> Option<String> {
    Some(text.lines().find_map(|line| line.strip_prefix(name))?.trim_matches('"').to_owned())
}

/// What stands between this kernel and the hardware, from the processor's flag and the names the firmware gives.
fn virtualisation(cpu: &str, read: &impl Fn(&str) -> Option<String>) -> String {
    let is_guest =
        value_of(cpu, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let names = ["/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name", "/sys/hypervisor/type"];
    let names: Vec<_> =
        names.iter().filter_map(|path| read(path)).map(|name| name.trim().to_owned()).collect();
    match (is_guest, names.is_empty()) {
        (true, true) => "guest".into(),
        (true, false) => format!("guest: {}", names.join(", ")),
        (false, true) => "none seen".into(),
        (false, false) => format!("none seen: {}", names.join(", ")),
    }
}

fn mitigations() -> Vec<(String, String)> {
    let Ok(folder) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let files = folder.filter_map(Result::ok);
    let state = |file: fs::DirEntry| {
        Some((file.file_name().into_string().ok()?, fs::read_to_string(file.path()).ok()?))
    };
    files.filter_map(state).collect()
}

/// What holds now, and the most this process may ask for.
#[allow(clippy::unnecessary_cast, reason = "its type differs between libraries")]
fn limit(of: libc::__rlimit_resource_t) -> Option<String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the struct.
    let result = unsafe { libc::getrlimit(of, &raw mut limit) };
    let shown = |value: libc::rlim_t| match value {
        libc::RLIM_INFINITY => "unlimited".to_owned(),
        value => value.to_string(),
    };
    (result == 0).then(|| format!("{} of {}", shown(limit.rlim_cur), shown(limit.rlim_max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_tells_what_changes_figures() {
        let Machine(facts) = Machine::look();
        for name in ["kernel", "cpus", "port_range", "somaxconn", "open_files", "memlock", "virtualisation"] {
            assert!(facts.contains_key(name), "{name}: {facts:?}");
        }
        assert!(facts.values().all(|value| !value.is_empty() && !value.contains(['\n', '\t'])));
    }

    #[test]
    fn a_guest_is_known_by_its_flag_and_named_by_its_firmware() {
        let none = |_: &str| None;
        let vendor = |path: &str| path.ends_with("sys_vendor").then(|| "QEMU\n".to_owned());
        let guest = "processor\t: 0\nflags\t\t: fpu hypervisor sse\n";
        assert_eq!(virtualisation(guest, &none), "guest");
        assert_eq!(virtualisation(guest, &vendor), "guest: QEMU");
        assert_eq!(virtualisation("flags : fpu hypervisors\n", &none), "none seen");
    }

    #[test]
    fn values_stand_behind_their_whole_name() {
        let text = "MemTotal:   12 kB\nMemTotalX: 9 kB\n";
        assert_eq!(value_of(text, "MemTotal").as_deref(), Some("12 kB"));
        assert_eq!(value_of(text, "Mem"), None);
        assert_eq!(quoted("A=1\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME=").as_deref(), Some("Debian 12"));
    }
}
