//! A machine that cannot run a role: filters and limits as containers and units set them.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;

use crate::files::*;

/// Lets the command run under a filter that answers `io_uring_setup` with `errno`, as a container's does.
fn without_io_uring(command: &mut Command, errno: i32) {
    // SAFETY: the closure makes two system calls over memory on its own stack.
    unsafe {
        command.pre_exec(move || {
            let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
            let setup = libc::SYS_io_uring_setup as u32;
            let mut filter = [
                statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
                libc::sock_filter {
                    code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                    jt: 0,
                    jf: 1,
                    k: setup,
                },
                statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
                statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let is_set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if is_set { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

fn limit(command: &mut Command, which: libc::__rlimit_resource_t, bound: u64) {
    // SAFETY: setrlimit reads the local alone.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bound, rlim_max: bound };
            if libc::setrlimit(which, &raw const limit) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}

#[test]
fn a_machine_that_cannot_run_a_role_is_told_cause_and_remedy_in_one_line() {
    type Break = fn(&mut Command);
    let rows: [(Break, &str, &str); 4] = [
        (
            |command| without_io_uring(command, libc::EPERM),
            "a seccomp filter forbids io_uring (EPERM)",
            "allow io_uring_setup",
        ),
        (
            |command| without_io_uring(command, libc::ENOSYS),
            "a seccomp filter hides io_uring (ENOSYS)",
            "allow io_uring_setup",
        ),
        (
            |command| limit(command, libc::RLIMIT_NOFILE, 800),
            "800 open files are too few for 100 clients on 1 shards",
            "LimitNOFILE=",
        ),
        (
            |command| limit(command, libc::RLIMIT_MEMLOCK, 64 * 1024),
            "64 KiB of locked memory are too few for",
            "LimitMEMLOCK=",
        ),
    ];
    for (make, cause, remedy) in rows {
        let files = Files::new();
        let before = files.everything();
        for mut command in [files.start("gateway"), checking(&files)] {
            make(&mut command);
            let output = run(&mut command);
            let said = text(&output.stderr) + &text(&output.stdout);
            assert_eq!(output.status.code(), Some(2), "{cause}: {said}");
            let line = said.lines().find(|line| line.contains(cause));
            assert!(line.is_some_and(|line| line.contains(remedy)), "{cause}: {said}");
            assert_eq!(files.everything(), before);
        }
        if !cause.contains("clients") {
            for mut command in [files.start("connector"), bare_check()] {
                make(&mut command);
                let output = run(&mut command);
                let said = text(&output.stderr) + &text(&output.stdout);
                assert!(output.status.code() == Some(2) && said.contains(cause), "{said}");
            }
        }
    }
}

fn bare_check() -> Command {
    let mut command = cmg();
    command.arg("check");
    command
}

#[test]
fn locked_memory_that_a_shard_needs_is_asked_for_where_the_kernel_counts_it() {
    let files = Files::new();
    let weak = |mut command: Command| {
        limit(&mut command, libc::RLIMIT_MEMLOCK, 768 * 1024);
        // SAFETY: prctl is async-signal-safe; root without CAP_IPC_LOCK is counted like anybody.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_CAPBSET_DROP, 14);
                Ok(())
            });
        }
        run(&mut command)
    };
    let output = weak(checking(&files));
    let said = text(&output.stdout);
    if output.status.code() == Some(0) {
        // Then a start must find room as well: it goes as far as taking its ports.
        let held = std::net::TcpListener::bind(("127.0.0.1", files.client)).unwrap();
        let errors = text(&weak(files.start("gateway")).stderr);
        assert!(errors.contains("a port that is in use") && !errors.contains("memory"), "{errors}");
        drop(held);
        return;
    }
    let words = "768 KiB of locked memory are too few for 1 shards; raise the limit to 1120 KiB";
    assert!(said.contains(words), "{said}");
    let output = weak(files.start("gateway"));
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains(words),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn mistakes_in_files_and_in_the_machine_are_said_together() {
    let files = Files::new();
    fs::remove_file(files.path("pki/internal-ca.pem")).unwrap();
    let mut command = files.start("gateway");
    without_io_uring(&mut command, libc::EPERM);
    let errors = text(&run(&mut command).stderr);
    assert!(errors.contains("internal.ca: found") && errors.contains("seccomp"), "{errors}");
}

#[test]
fn with_no_file_this_machine_is_looked_at() {
    let output = run(&mut bare_check());
    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{lines}");
    assert!(lines.starts_with("ok       this machine: io_uring"), "{lines}");
    let json: Value = serde_json::from_slice(&run(bare_check().arg("--json")).stdout).unwrap();
    assert_eq!(json["errors"], 0);
}
