//! The tuning kit: what it finds on made-up machines, and that what it applies can be taken back.
//!
//! Machines are folders with a /proc, a /sys and an /etc of their own; the one that is real is the network of a fresh namespace.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
}

/// A machine on which a gateway of 10,000 clients finds everything as wanted.
const GOOD: &[(&str, &str)] = &[
    ("proc/cpuinfo", "processor\t: 0\n\nprocessor\t: 1\n"),
    ("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n"),
    ("proc/swaps", "Filename Type Size Used Priority\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1024                 20000                files\n\
         Max locked memory         8388608              8388608              bytes\n",
    ),
    ("proc/self/status", "Name:\tbash\nSeccomp:\t0\n"),
    ("proc/1/comm", "systemd\n"),
    ("proc/70/comm", "chronyd\n"),
    ("proc/sys/kernel/osrelease", "6.1.0-28-amd64\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    ("proc/sys/vm/nr_hugepages", "0\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/core/default_qdisc", "fq\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("proc/sys/net/ipv4/tcp_mem", "180000\t250000\t370000\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
    ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "0\n"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "bbr\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/node/node0/cpulist", "0-1\n"),
    ("sys/class/net/eth0/device/vendor", "0x1af4\n"),
    ("sys/class/net/eth0/device/msi_irqs/30", "msix\n"),
    ("sys/class/net/eth0/device/msi_irqs/31", "msix\n"),
    ("proc/irq/30/smp_affinity_list", "0-1\n"),
    ("proc/irq/31/smp_affinity_list", "0-1\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/tx-0/xps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/tx-1/xps_cpus", "0\n"),
    ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
];

struct Machine(TempDir);

impl Machine {
    fn good() -> Machine {
        let machine = Machine(tempfile::tempdir().unwrap());
        GOOD.iter().for_each(|(path, text)| machine.write(path, text));
        machine
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.root().join(path)).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn run(&self, name: &str, flags: &[&str]) -> Output {
        Command::new(program(name)).args(flags).arg("--root").arg(self.root()).output().unwrap()
    }

    fn check(&self, flags: &str) -> (i32, String) {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        said(&self.run("check", &flags))
    }

    /// Every file with its content.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut found, mut folders) = (BTreeMap::new(), vec![self.root().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        found
    }
}

fn said(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

// ── check ───────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_good_machine_is_as_wanted_for_every_role() {
    let machine = Machine::good();
    for flags in [
        "--role gateway",
        "--role connector",
        "--role loadgen --clients 9000",
        "--role gateway --clients 30000",
    ] {
        let (code, text) = machine.check(flags);
        assert_eq!(code, 0, "{flags}\n{text}");
        assert!(!text.contains("must   ") && !text.contains("should   "), "{text}");
    }
}

#[test]
fn what_is_missing_is_named_with_its_weight() {
    // What is different, for whom, the exit code, and how the line about it begins.
    let rows: &[(&str, &str, &str, i32, &str)] = &[
        ("proc/sys/kernel/osrelease", "5.15.0-91-generic\n", "gateway", 2, "must     kernel"),
        ("proc/sys/kernel/osrelease", "6.0.19\n", "gateway", 2, "must     kernel"),
        ("proc/sys/kernel/osrelease", "10.2\n", "gateway", 0, "ok       kernel"),
        ("proc/sys/kernel/osrelease", "odd\n", "gateway", 0, "unknown  kernel"),
        ("proc/sys/kernel/io_uring_disabled", "2\n", "connector", 2, "must     io_uring"),
        ("proc/sys/kernel/io_uring_disabled", "1\n", "connector", 0, "unknown  io_uring"),
        ("proc/self/status", "Seccomp:\t2\n", "gateway", 0, "unknown  seccomp"),
        ("proc/self/limits", "Max open files  1024  4096  files\n", "gateway", 2, "must     open files"),
        (
            "proc/self/limits",
            "Max locked memory  65536  65536  bytes\n",
            "gateway",
            2,
            "must     locked memory",
        ),
        (
            "proc/self/limits",
            "Max locked memory  unlimited  unlimited  bytes\n",
            "gateway",
            0,
            "ok       locked memory",
        ),
        ("proc/meminfo", "MemAvailable: 200000 kB\n", "gateway", 2, "must     memory"),
        ("proc/sys/fs/file-max", "20000\n", "gateway", 2, "must     files of the system"),
        ("proc/sys/net/ipv4/tcp_mem", "1000\t2000\t3000\n", "gateway", 1, "should   TCP memory"),
        ("proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2\n", "gateway", 1, "should   swap"),
        ("proc/sys/net/core/somaxconn", "128\n", "gateway", 1, "should   accept backlog"),
        ("proc/sys/net/ipv4/tcp_max_syn_backlog", "512\n", "gateway", 1, "should   SYN backlog"),
        ("proc/sys/net/ipv4/tcp_syncookies", "0\n", "gateway", 1, "should   SYN cookies"),
        ("proc/sys/net/core/somaxconn", "128\n", "connector", 0, "ok       kernel"),
        ("proc/sys/net/ipv4/ip_local_port_range", "60000\t60999\n", "connector", 1, "should   port range"),
        ("proc/sys/net/ipv4/ip_local_port_range", "60000\t60999\n", "loadgen", 2, "must     port range"),
        ("proc/sys/net/ipv4/tcp_tw_reuse", "0\n", "loadgen", 1, "should   TIME_WAIT"),
        ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t262144\n", "gateway", 1, "should   receive buffer"),
        ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t262144\n", "connector", 1, "should   send buffer"),
        (
            "proc/sys/net/ipv4/tcp_slow_start_after_idle",
            "1\n",
            "gateway",
            1,
            "should   slow start after idle",
        ),
        ("proc/sys/net/core/default_qdisc", "pfifo_fast\n", "gateway", 1, "should   congestion control"),
        ("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n", "gateway", 0, "ok       congestion control"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "8192\n", "gateway", 2, "must     conntrack"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n", "gateway", 0, "ok       conntrack"),
        (
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
            "powersave\n",
            "gateway",
            1,
            "should   governor",
        ),
        ("sys/devices/system/cpu/isolated", "1\n", "gateway", 0, "unknown  isolated CPUs"),
        ("proc/9/comm", "irqbalance\n", "gateway", 1, "should   irqbalance"),
        ("sys/devices/system/node/node1/cpulist", "1\n", "gateway", 0, "unknown  NUMA"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "[always] madvise never\n",
            "gateway",
            1,
            "should   huge pages",
        ),
        ("proc/sys/vm/nr_hugepages", "64\n", "gateway", 1, "should   reserved huge pages"),
        ("proc/70/comm", "cron\n", "gateway", 1, "should   time"),
    ];
    for (path, content, role, code, line) in rows {
        let machine = Machine::good();
        if *path == "sys/devices/system/node/node1/cpulist" {
            machine.write("proc/sys/kernel/numa_balancing", "0\n");
        }
        machine.write(path, content);
        let (found, text) = machine.check(&format!("--role {role} --clients 10000"));
        assert_eq!(found, *code, "{path} {content:?} for a {role}\n{text}");
        assert!(text.lines().any(|found| found.starts_with(line)), "{path} {content:?}: no {line:?}\n{text}");
    }
}

#[test]
fn fewer_queues_than_processors_are_told_unless_software_spreads_them() {
    let machine = Machine::good();
    machine.remove("sys/class/net/eth0/queues/rx-1");
    let (code, text) = machine.check("--role gateway");
    assert!(code == 1 && text.contains("should   packets of eth0"), "{text}");
    machine.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000003\n");
    let (code, text) = machine.check("--role gateway");
    assert!(code == 0 && text.contains("ok       packets of eth0") && !text.contains(" of lo"), "{text}");
}

#[test]
fn send_queues_that_processors_share_are_told_until_xps_says_whose_they_are() {
    let machine = Machine::good();
    let processors: String = (0..4).map(|cpu| format!("processor\t: {cpu}\n\n")).collect();
    machine.write("proc/cpuinfo", &processors);
    assert!(machine.check("--role gateway").1.contains("should   sending of eth0"));
    machine.write("sys/class/net/eth0/queues/tx-0/xps_cpus", "00000003\n");
    assert!(machine.check("--role gateway").1.contains("ok       sending of eth0"));
}

#[test]
fn interrupts_that_all_go_to_one_processor_are_told_until_they_are_placed() {
    let machine = Machine::good();
    for irq in [30, 31] {
        machine.write(&format!("proc/irq/{irq}/smp_affinity_list"), "1\n");
    }
    let (code, text) = machine.check("--role gateway");
    assert!(code == 1 && text.contains("should   interrupts of eth0"), "{text}");
    assert!(text.contains("found 2, on 1 of 2 CPUs"), "{text}");
    assert!(text.contains("ok       sending of eth0"), "{text}");
    assert_eq!(said(&machine.run("apply", &["--only", "irq"])).0, 0);
    let (code, text) = machine.check("--role gateway");
    assert!(code == 0 && text.contains("ok       interrupts of eth0"), "{text}");
    // With a queue too few they stay where they are, and software spreads what they bring.
    assert_eq!(said(&machine.run("undo", &[])).0, 0);
    machine.remove("sys/class/net/eth0/queues/rx-1");
    assert!(machine.check("--role gateway").1.contains("should   interrupts of eth0"));
    assert_eq!(said(&machine.run("apply", &["--only", "irq"])).0, 0);
    let (code, text) = machine.check("--role gateway");
    assert!(code == 0 && text.contains("ok       interrupts of eth0"), "{text}");
}

#[test]
fn isolated_processors_are_for_a_role_that_may_run_on_them() {
    let machine = Machine::good();
    machine.write("sys/devices/system/cpu/isolated", "2-3,10\n");
    let limits = machine.read("proc/self/limits");
    for (allowed, code, line) in [
        ("0-1", 1, "should   isolated CPUs"),
        ("0-1,11", 1, "should   isolated CPUs"),
        ("3", 0, "ok       isolated CPUs"),
        ("8-10", 0, "ok       isolated CPUs"),
        ("", 0, "unknown  isolated CPUs"),
    ] {
        machine.write("proc/7/limits", &limits);
        machine.write("proc/7/status", &format!("Seccomp:\t0\nCpus_allowed_list:\t{allowed}\n"));
        let (found, text) = machine.check("--role gateway --pid 7");
        assert!(found == code && text.contains(line), "{allowed}: {found}\n{text}");
    }
}

#[test]
fn sources_share_the_ports() {
    let machine = Machine::good();
    assert_eq!(machine.check("--role loadgen --clients 60000").0, 2);
    assert_eq!(machine.check("--role loadgen --clients 60000 --sources 3").0, 0);
}

#[test]
fn json_says_the_same() {
    let machine = Machine::good();
    machine.write("proc/sys/kernel/osrelease", "5.10 \"odd\\name\"\t\n");
    let (code, text) = machine.check("--role gateway --clients 10000 --json");
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, told["verdict"].as_i64()), (2, Some(2)));
    let items = told["items"].as_array().unwrap();
    let kernel = items.iter().find(|item| item["name"] == "kernel").unwrap();
    assert_eq!(kernel["state"], "must");
    assert_eq!(kernel["found"], "5.10 \"odd\\name\" ");
    assert!(items.len() > 20 && items.iter().all(|item| !item["why"].as_str().unwrap().is_empty()));
}

#[test]
fn wrong_usage_is_told_apart_from_a_bad_machine() {
    let machine = Machine::good();
    for flags in [
        "",
        "--role server",
        "--role gateway --clients 0",
        "--role gateway --clients x",
        "--role gateway --pid 1x",
        "--bad",
    ] {
        assert_eq!(machine.check(flags).0, 64, "{flags}");
    }
    let output =
        Command::new(program("check")).args(["--role", "gateway", "--root", "/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

// ── apply and undo ──────────────────────────────────────────────────────────────────────────────

/// A machine that has something to set everywhere.
fn untuned() -> Machine {
    let machine = Machine::good();
    for (path, text) in [
        ("proc/sys/net/core/somaxconn", "128\n"),
        ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n"),
        ("proc/sys/net/core/default_qdisc", "pfifo_fast\n"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "schedutil\n"),
        ("etc/sysctl.d/90-cmg.conf", "# of somebody else\nnet.core.somaxconn = 128\n"),
        ("etc/systemd/system/cmg-gateway.service.d/own.conf", "[Service]\n"),
    ] {
        machine.write(path, text);
    }
    machine.remove("sys/class/net/eth0/queues/rx-1");
    machine
}

#[test]
fn what_apply_does_undo_takes_back_to_the_byte() {
    let machine = untuned();
    let before = machine.files();
    let (code, text) = said(&machine.run("apply", &[]));
    assert_eq!(code, 0, "{text}");
    assert_eq!(machine.read("proc/sys/net/core/somaxconn").trim(), "4096");
    assert_eq!(machine.read("proc/sys/net/core/default_qdisc").trim(), "fq");
    assert_eq!(machine.read("sys/class/net/eth0/queues/rx-0/rps_cpus").trim(), "3");
    for cpu in ["cpu0", "cpu1"] {
        let path = format!("sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor");
        assert_eq!(machine.read(&path).trim(), "performance");
    }
    assert!(machine.check("--role gateway").1.contains("ok       governor"));
    assert!(machine.read("etc/sysctl.d/90-cmg.conf").contains("net.core.somaxconn = 4096"));
    assert!(
        machine.read("etc/systemd/system/cmg-gateway.service.d/90-cmg-tuning.conf").contains("LimitNOFILE")
    );
    let applied = machine.files();
    let (code, text) = said(&machine.run("apply", &[]));
    assert!(code == 0 && !text.contains("set ") && !text.contains("write "), "{text}");
    assert!(machine.files() == applied, "twice does no more than once");
    let (code, text) = said(&machine.run("undo", &[]));
    assert_eq!(code, 0, "{text}");
    assert_eq!(machine.files(), before);
    let (code, text) = said(&machine.run("undo", &[]));
    assert!(code == 0 && text.contains("nothing to undo"), "{text}");
}

#[test]
fn a_dry_run_changes_nothing_either_way() {
    let machine = untuned();
    let before = machine.files();
    let (code, text) = said(&machine.run("apply", &["--dry-run"]));
    assert!(code == 0 && text.contains("would set") && text.contains("would write"), "{text}");
    assert_eq!(machine.files(), before);
    machine.run("apply", &[]);
    let applied = machine.files();
    let (code, text) = said(&machine.run("undo", &["--dry-run"]));
    assert!(code == 0 && text.contains("would set") && text.contains("would restore"), "{text}");
    assert_eq!(machine.files(), applied);
}

#[test]
fn what_somebody_else_changed_since_is_left_and_told() {
    let machine = untuned();
    machine.run("apply", &[]);
    machine.write("proc/sys/net/core/somaxconn", "9999\n");
    machine.write("etc/sysctl.d/90-cmg.conf", "# edited\n");
    let (code, text) = said(&machine.run("undo", &[]));
    assert_eq!(code, 1, "{text}");
    assert_eq!(text.matches("LEFT").count(), 2, "{text}");
    assert_eq!(machine.read("proc/sys/net/core/somaxconn"), "9999\n");
    assert_eq!(machine.read("etc/sysctl.d/90-cmg.conf"), "# edited\n");
    assert_eq!(machine.read("proc/sys/net/core/default_qdisc"), "pfifo_fast\n");
    let (code, text) = said(&machine.run("undo", &["--force"]));
    assert_eq!(code, 0, "{text}");
    assert_eq!(machine.read("proc/sys/net/core/somaxconn"), "128\n");
    assert!(machine.read("etc/sysctl.d/90-cmg.conf").starts_with("# of somebody else"));
}

#[test]
fn what_is_better_already_stays_now_and_after_the_next_boot() {
    let machine = untuned();
    machine.write("proc/sys/net/core/somaxconn", "65535\n");
    machine.write("proc/sys/vm/swappiness", "1\n");
    machine.run("apply", &[]);
    assert_eq!(machine.read("proc/sys/net/core/somaxconn"), "65535\n");
    assert_eq!(machine.read("proc/sys/vm/swappiness"), "1\n");
    let settings = machine.read("etc/sysctl.d/90-cmg.conf");
    assert!(!settings.lines().any(|line| line.starts_with("net.core.somaxconn") || line.starts_with("vm.")));
    assert!(settings.lines().any(|line| line.starts_with("net.ipv4.tcp_slow_start_after_idle")));
}

#[test]
fn parts_can_be_chosen() {
    let machine = untuned();
    let before = machine.read("etc/sysctl.d/90-cmg.conf");
    assert_eq!(said(&machine.run("apply", &["--only", "irq,pages"])).0, 0);
    assert_eq!(machine.read("etc/sysctl.d/90-cmg.conf"), before);
    assert_eq!(machine.read("sys/class/net/eth0/queues/rx-0/rps_cpus").trim(), "3");
    assert_eq!(said(&machine.run("apply", &["--only", "all"])).0, 64);
}

#[test]
fn interrupts_go_to_a_processor_each_where_there_are_enough_queues() {
    let machine = Machine::good();
    let (code, text) = said(&machine.run("irq", &[]));
    assert_eq!(code, 0, "{text}");
    let root = machine.root().display();
    let expected =
        format!("{root}/proc/irq/30/smp_affinity_list 0\n{root}/proc/irq/31/smp_affinity_list 1\n");
    assert_eq!(text, expected);
    // 40 processors: masks are words of 32 bits, and one send queue of two is not for all.
    let many: String = (0..40).map(|cpu| format!("processor\t: {cpu}\n")).collect();
    machine.write("proc/cpuinfo", &many);
    let (_, text) = said(&machine.run("irq", &[]));
    assert!(text.contains("rx-1/rps_cpus ff,ffffffff\n") && text.contains("tx-1/xps_cpus 2\n"), "{text}");
}

#[test]
fn nothing_is_touched_without_root() {
    let own = Command::new("id").arg("-u").output().unwrap();
    let is_root = own.stdout == b"0\n";
    for name in ["apply", "undo"] {
        let mut command = Command::new(if is_root { "setpriv" } else { "bash" });
        if is_root {
            command.args(["--reuid=65534", "--clear-groups", "bash"]);
        }
        // By standard input: the folder of the tree may be closed to others.
        let text = fs::read_to_string(program(name)).unwrap();
        let journal = fs::read_to_string(program("journal.sh")).unwrap();
        let script = text.replace(". \"$here/journal.sh\"", &journal);
        let output = command.args(["-c", &script, name]).output().unwrap();
        let (code, text) = said(&output);
        assert!(code == 77 && text.contains("needs root"), "{name}: {code} {text}");
    }
}

/// Settings of a real network, in a namespace of its own.
#[test]
fn a_real_network_gets_its_settings_and_loses_them_again() {
    let is_possible =
        Command::new("unshare").args(["-rn", "true"]).output().is_ok_and(|output| output.status.success());
    if !is_possible {
        let text = "SKIPPED a_real_network_gets_its_settings_and_loses_them_again: no namespaces here";
        assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "{text}");
        let _ = writeln!(io::stderr(), "{text}");
        return;
    }
    let machine = Machine(tempfile::tempdir().unwrap());
    fs::create_dir_all(machine.root().join("proc/sys")).unwrap();
    // The network alone: memory and the like belong to the whole machine.
    symlink("/proc/sys/net", machine.root().join("proc/sys/net")).unwrap();
    let script = format!(
        "cd /proc/sys/net; look() {{ head core/somaxconn ipv4/tcp_max_syn_backlog ipv4/tcp_slow_start_after_idle ipv4/tcp_congestion_control; }}
         echo 200 > core/somaxconn; look > {root}/before
         {apply} --root {root} --only sysctl || exit 3
         [ $(cat core/somaxconn ipv4/tcp_slow_start_after_idle | tr '\\n' ' ' | tr -d ' ') = 40960 ] || exit 4
         {undo} --root {root} || exit 5
         look > {root}/after; cmp {root}/before {root}/after || exit 6",
        root = machine.root().display(),
        apply = program("apply").display(),
        undo = program("undo").display(),
    );
    let (code, text) = said(&Command::new("unshare").args(["-rn", "bash", "-c", &script]).output().unwrap());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("somaxconn: 200 -> 4096") && text.contains("somaxconn: 4096 -> 200"), "{text}");
}
