"""Processes that end with this one, in a temporary folder, on free ports of loopback."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

# Below 32768, where Linux begins to take ports for outgoing connections.
PORTS = range(20_000, 32_000)
READY_WITHIN = 40.0
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Failure(Exception):
    """Something that stops the comparison, as a text for who runs it."""


class Stage:
    """Everything that was started; `close` ends all of it, the last first."""

    def __init__(self, keep=False):
        self.folder = tempfile.mkdtemp(prefix="cmg-compare-")
        self.keep = keep
        self.processes = []
        self.ports = iter(range(PORTS.start + os.getpid() * 37 % 6000, PORTS.stop))

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def port(self):
        """A free port, which nobody else of this stage gets."""
        for port in self.ports:
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise Failure("no free port on 127.0.0.1")

    def start(self, name, argv, env=None):
        """Starts a program in a session of its own: one Ctrl-C is not two signals. Its output goes to NAME.log."""
        with open(self.path(name + ".log"), "ab") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM), env={**os.environ, **(env or {})})
        process.title = name
        self.processes.append(process)
        return process

    def stop(self, process):
        """Asks, waits, and insists; what a program started itself ends with its process group."""
        if process in self.processes:
            self.processes.remove(process)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()

    def wait_for_free(self, port):
        """Until nobody listens there. A ring is taken down after its process ended, and keeps the listener that accepts are
        armed on until then: who is started meanwhile finds the address taken, while the old listener answers for it."""
        end = time.monotonic() + READY_WITHIN
        while not can_listen(port):
            if time.monotonic() > end:
                raise Failure(f"port {port} of 127.0.0.1 is still taken after {READY_WITHIN:.0f} s")
            time.sleep(0.02)

    def wait_for_port(self, process, port):
        self.wait_until(process, lambda: can_connect(port), f"port {port}")

    def wait_for_file(self, process, path):
        self.wait_until(process, lambda: os.path.exists(path), path)

    def wait_until(self, process, is_ready, what):
        end = time.monotonic() + READY_WITHIN
        while True:
            # What is ready may be another's: looked at before the process is.
            is_there = is_ready()
            if process.poll() is not None:
                raise Failure(f"{process.title} ended with code {process.returncode}:\n{self.log(process)}")
            if is_there:
                return
            if time.monotonic() > end:
                raise Failure(f"{process.title}: no {what} within {READY_WITHIN:.0f} s:\n{self.log(process)}")
            time.sleep(0.02)

    def log(self, process):
        with open(self.path(process.title + ".log"), errors="replace") as log:
            return "".join(log.readlines()[-15:])

    def close(self):
        # A second Ctrl-C must not leave half of them running.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for process in reversed(self.processes[:]):
            self.stop(process)
        if self.keep:
            print(f"files and logs are in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def can_listen(port):
    """Closed connections of the port do not matter, as they do not to who listens."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False


def children(pid):
    """Processes that this one started, as /proc has them."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
        except FileNotFoundError:
            pass
    return found


def fill(template, into, values):
    """Writes a settings file: every @NAME@ of the template is one of `values`."""
    with open(os.path.join(os.path.dirname(__file__), template)) as file:
        text = file.read()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    with open(into, "w") as file:
        file.write(text)
    return into
