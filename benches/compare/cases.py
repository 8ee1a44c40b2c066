"""What is asked of each peer, and what one run of it is kept as."""

import json
import os
import signal
import subprocess

from stage import Failure

# A run that hangs is a finding, not a reason to wait for ever.
PATIENCE = 90
# Larger parts of a report (time lines, curves) would outgrow the tree; the machine is the same for all runs.
KEPT_PART_MAX = 1_500
NOT_KEPT = ("machine",)
MEBIBYTE = 1 << 20
# One source address has 28,232 ports; closed connections hold theirs for a minute.
SOURCES = "127.0.0.2,127.0.0.3,127.0.0.4,127.0.0.5"
# Of newer load tools; with others the script counts by itself.
COUNT_CALLS = "--count-syscalls"
# How the help of a load tool says that `-m 0` asks nothing.
NOTHING_ASKED = "handshakes are then what is counted"
# Long enough for the slowest to connect all, and for two seconds of rest behind that.
HOLD = "8"
EVERYBODY = ("cmg", "nginx", "haproxy", "nginx-nginx", "envoy", "rathole")


class Case:
    """One kind of work. `flags` are those of `loadgen clients`, `unit` is what CPU time is counted by."""

    def __init__(self, name, title, flags, peers=EVERYBODY, unit="request", **more):
        self.name, self.title, self.flags, self.peers, self.unit = name, title, flags, peers, unit
        self.warmup = more.get("warmup", 0.3)
        self.seconds = more.get("seconds", 1.0)
        self.rounds = more.get("rounds")
        self.is_held = more.get("is_held", False)
        self.needs_fresh = more.get("needs_fresh", False)
        self.needs_flag = more.get("needs_flag")
        self.has_crypto = more.get("has_crypto", False)
        self.counts_calls = more.get("counts_calls", False)


CASES = {case.name: case for case in (
    Case("small-64", "GET, 200 bytes, 64 kept connections", ["-c", "64"], (*EVERYBODY, "floor"),
         counts_calls=True),
    Case("small-1000", "GET, 200 bytes, 1,000 kept connections", ["-c", "1000", "--source", SOURCES],
         (*EVERYBODY, "floor"), counts_calls=True),
    Case("handshake-full", "full mutual handshake, one GET, close", ["-c", "32", "-m", "1", "--source", SOURCES],
         ("cmg", "nginx", "haproxy", "envoy", "floor"), "connection", has_crypto=True),
    Case("handshake-resumed", "resumed handshake, one GET, close",
         ["-c", "32", "-m", "1", "--resume", "--source", SOURCES],
         ("cmg", "nginx", "haproxy", "envoy", "floor"), "connection", has_crypto=True),
    Case("handshake-only-full", "full mutual handshake, close: nothing asked", ["-c", "32", "-m", "0", "--source", SOURCES],
         ("cmg", "floor"), "handshake", has_crypto=True, needs_flag=NOTHING_ASKED),
    Case("handshake-only-resumed", "resumed handshake, close: nothing asked",
         ["-c", "32", "-m", "0", "--resume", "--source", SOURCES],
         ("cmg", "floor"), "handshake", has_crypto=True, needs_flag=NOTHING_ASKED),
    Case("down-1m", "GET, 1 MiB answers, 8 connections", ["-c", "8", "--answer", str(MEBIBYTE)], unit="MiB"),
    Case("up-1m", "POST, 1 MiB bodies, 8 connections", ["-c", "8", "--body", str(MEBIBYTE)], unit="MiB"),
    Case("open-6000", "6,000 clients, 2,000 requests/s, open loop",
         ["-c", "6000", "--rate", "2000", "--source", SOURCES], ("cmg", "nginx", "nginx-nginx"),
         warmup=1.0, seconds=3.0, needs_flag="--rate <"),
    # Once: every run needs fresh processes and ten seconds. Kept runs of the gateway lie within 6 % of each other.
    Case("idle-memory", "2,000 idle clients, each served once", ["-c", "2000", "--source", SOURCES],
         (*EVERYBODY, "floor"), "client", rounds=1, is_held=True, needs_fresh=True),
)}


def help_of(loadgen):
    text = subprocess.run([loadgen, "clients", "--help"], capture_output=True, text=True).stdout
    return " ".join(text.split())


def run(case, peer, seconds, programs, stage, counts_calls):
    """One run: what loadgen reports. A run without a report is a failure with its reason."""
    report = stage.path("report.json")
    argv = [programs.loadgen, "clients", *peer.flags(), *case.flags, "--ids", peer.checks, "--json", report]
    if case.is_held:
        argv += ["--hold", HOLD]
    else:
        argv += ["-d", f"{seconds * case.seconds:g}", "--warmup", f"{case.warmup:g}"]
    if case.counts_calls and counts_calls:
        argv += [COUNT_CALLS, "0.5"]
    return ask(argv, report)


def ask(argv, report):
    if os.path.exists(report):
        os.unlink(report)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return {"passed": False, "first_failure": f"no end within {PATIENCE} s"}
    if not os.path.exists(report):
        if done.returncode == 2:
            raise Failure(f"loadgen does not take its flags:\n{' '.join(argv)}\n{done.stderr}")
        return {"passed": False, "first_failure": (done.stderr or done.stdout)[-300:]}
    with open(report) as file:
        return json.load(file)


def kept(report):
    """The report without what would outgrow the tree, and what was left out."""
    is_small = lambda name: name not in NOT_KEPT and len(json.dumps(report[name])) <= KEPT_PART_MAX
    left_out = sorted(name for name in report if name != "processes" and not is_small(name))
    small = {name: part for name, part in report.items() if name not in left_out}
    return {**small, "left_out": left_out} if left_out else small


def crypto(programs):
    """What the arithmetic of a handshake costs now, all CPUs busy."""
    done = subprocess.run([programs.floor, "crypto", "--seconds", "0.5"], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Failure(f"floor crypto: {done.stderr}")
    return json.loads(done.stdout)


def calls(case, peer, programs, stage):
    """System calls per request by process, from the kernel's tracepoint: two runs of different length, so that what
    connecting costs falls out of the difference. None where perf may not count."""
    perf = next((path for path in ("/usr/bin/perf", "/usr/local/bin/perf") if os.access(path, os.X_OK)), None)
    if not perf:
        return None
    counts = [count_calls(perf, case, peer, seconds, programs, stage) for seconds in (0.5, 1.5)]
    if not all(counts):
        return None
    (few, requests_few), (many, requests_many) = counts
    more = requests_many - requests_few
    return {name: (many[name] - few[name]) / more for name in many} if more > 0 else None


def count_calls(perf, case, peer, seconds, programs, stage):
    counters = {}
    for name, pids in peer.processes.items():
        path = stage.path(f"perf-{name}.txt")
        argv = [perf, "stat", "-x", ",", "-o", path, "-e", "raw_syscalls:sys_enter", "-p", ",".join(map(str, pids))]
        counters[name] = (stage.start(f"perf-{name}", argv), path)
    report = stage.path("report.json")
    argv = [programs.loadgen, "clients", *peer.flags(), *case.flags, "--ids", peer.checks, "--json", report,
            "-d", f"{seconds:g}"]
    requests = ask(argv, report).get("requests")
    found = {}
    for name, (process, path) in counters.items():
        process.send_signal(signal.SIGINT)
        process.wait(10)
        stage.stop(process)
        found[name] = counted(path)
    return (found, requests) if requests and None not in found.values() else None


def counted(path):
    try:
        with open(path) as file:
            fields = [line.split(",") for line in file if "raw_syscalls" in line]
        return int(fields[0][0])
    except (OSError, ValueError, IndexError):
        return None
