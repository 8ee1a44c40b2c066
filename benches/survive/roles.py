"""Gateways, connection points and an origin in network namespaces of their own, each of which can be killed, stopped, started
anew and upgraded; and the load generators that ask them."""

import ctypes
import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field

from stage import Failure

NAME = "cmg.survive.test"
CHANNEL_PORT, CLIENT_PORT, ADMIN_PORT, ORIGIN_PORT, CONTROL_PORT = 10140, 443, 9140, 8080, 8081
# The first role id of the first site; each site has a hundred.
ROLE_ID = 72057594037927936
PR_SET_CHILD_SUBREAPER = 36
# Behind what a drain may take.
LEAVE_WITHIN = 8
# Ids asked of the origin at once: its control listener reads 4 KiB.
IDS_AT_ONCE = 150


@dataclass
class Layout:
    """How many of what there are. Connection points by site: ["1", "2"] of PS1 are cp1 and cp2."""

    gateways: int = 2
    points: dict = field(default_factory=lambda: {"PS1": 2})
    shards: int = 2
    drain: int = 10
    # Certificates of clients: connections take them in turn, and few may share one, for what one client may have waiting is
    # bounded (`WAITING_OF_CLIENT_MAX`). An odd number, so that each is used at both of two gateways.
    clients: int = 51

    def __post_init__(self):
        self.gateway_names = [f"gw{number + 1}" for number in range(self.gateways)]
        codes = [code for code, count in self.points.items() for _ in range(count)]
        self.site_of = {f"cp{number + 1}": code for number, code in enumerate(codes)}
        self.point_names = list(self.site_of)
        self.roles = self.point_names + self.gateway_names

    def hosts(self):
        numbered = {name: 10 + number for number, name in enumerate(self.gateway_names)}
        numbered |= {name: 100 + number for number, name in enumerate(self.point_names)}
        return {"client": 1, "origin": 2, **numbered}

    def role_id(self, code):
        return ROLE_ID + 100 * list(self.points).index(code)

    def path(self, code):
        return f"/CCM_Proxy_MutualAuth/{self.role_id(code)}/SMS_MP/.sms_aut"


class Adopted:
    """A process that a command left running: this process asked to be the parent of such. Behaves as a `Popen` does."""

    def __init__(self, pid, title):
        self.pid, self.title, self.returncode = pid, title, None

    def poll(self):
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        end = time.monotonic() + (timeout or 3600)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.title, timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Site:
    def __init__(self, stage, network, folder, layout):
        self.stage, self.network, self.layout, self.running = stage, network, layout, {}
        self.cmg, self.loadgen = os.path.join(folder, "cmg"), os.path.join(folder, "loadgen")
        # What went wrong beside requests.
        self.complaints = []
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise Failure("this process cannot adopt those that an upgrade leaves running")
        self.make_pki()
        with open(os.open(stage.path("ticket.keys"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(os.urandom(32).hex())
        for name in layout.gateway_names:
            self.write(f"{name}.toml", self.gateway_toml(name))
        for name in layout.point_names:
            self.write(f"{name}.toml", self.connector_toml(name))
        for code in layout.points:
            self.write(f"site-{code}.toml", self.site_toml(code))

    def write(self, name, text):
        with open(self.stage.path(name), "w") as file:
            file.write(text)

    # ── settings ──────────────────────────────────────────────────────────────────────────────────────

    def make_pki(self):
        pki = [["init"], ["server", NAME], *(["gateway", name] for name in self.layout.gateway_names),
               *(["connector", name, "--site", code] for name, code in self.layout.site_of.items()),
               ["client", "--count", str(self.layout.clients), "--prefix", "pc"]]
        for words in pki:
            done = subprocess.run([self.cmg, "pki", "--dir", self.stage.path("pki"), *words], capture_output=True, text=True)
            if done.returncode:
                raise Failure(f"cmg pki {' '.join(words)}: {done.stderr}")

    def gateway_toml(self, name):
        address, layout = self.network.address(name), self.layout
        sites = "".join(f'[[site]]\ncode = "{code}"\nrole_ids = ["{layout.role_id(code)}-{layout.role_id(code) + 99}"]\n'
                        for code in layout.points)
        return f"""[gateway]
name = "{NAME}"
instance = "{name}"
shards = {layout.shards}
state_dir = "state-{name}"
ticket_keys = "ticket.keys"
[limits]
drain_secs = {layout.drain}
[[listener]]
address = "{address}:{CLIENT_PORT}"
[[server_certificate]]
chain = "pki/server/{NAME}.pem"
key = "pki/server/{NAME}.key"
[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/gateway-{name}.pem"
key = "pki/internal/gateway-{name}.key"
[[internal.listener]]
address = "{address}:{CHANNEL_PORT}"
[admin]
address = "127.0.0.1:{ADMIN_PORT}"
socket = "{name}.sock"
{sites}"""

    def connector_toml(self, name):
        code, layout = self.layout.site_of[name], self.layout
        gateways = "".join(f'[[gateway]]\naddress = "{self.network.address(one)}:{CHANNEL_PORT}"\n'
                           f'name = "{one}.gateway.cmg.internal"\n' for one in layout.gateway_names)
        return f"""[connector]
identity = "{name}"
shards = {layout.shards}
site = "site-{code}.toml"
{gateways}[limits]
drain_secs = {layout.drain}
[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/connector-{code}-{name}.pem"
key = "pki/internal/connector-{code}-{name}.key"
[admin]
address = "127.0.0.1:{ADMIN_PORT}"
socket = "{name}.sock"
"""

    def site_toml(self, code):
        return f"""code = "{code}"
serial = 1
[trust]
roots = ["pki/ca.pem"]
[[management_point]]
id = {self.layout.role_id(code)}
url = "http://{self.network.address('origin')}:{ORIGIN_PORT}"
"""

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────

    def start(self, name, argv):
        host = name if name in self.network.hosts else "client"
        self.running[name] = self.stage.start(name, [*self.network.inside(host), *argv])
        return self.running[name]

    def start_all(self):
        self.start("origin", [self.loadgen, "origin", "--listen", f"{self.network.address('origin')}:{ORIGIN_PORT}", "--shards",
                              "2", "--seen", "--control", f"127.0.0.1:{CONTROL_PORT}"])
        for name in self.layout.gateway_names + self.layout.point_names:
            self.start_role(name)
        self.wait_until_all_ready()

    def config(self, name):
        role = "gateway" if name in self.layout.gateway_names else "connector"
        return role, self.stage.path(f"{name}.toml")

    def start_role(self, name):
        role, config = self.config(name)
        self.start(name, [self.cmg, role, "--config", config])

    def wait_until_all_ready(self):
        for name in self.layout.roles:
            self.stage.wait_until(self.running[name], lambda: self.ask(name, "/readyz")[0] == 200, "ready state")

    def ask(self, name, path):
        return self.network.ask(name, ADMIN_PORT, path)

    def metric(self, name, metric):
        """A metric of a role, over all its labels."""
        lines = re.findall(rf"(?m)^{metric}(?:\{{[^}}]*\}})? (\S+)$", self.ask(name, "/metrics")[1])
        if not lines:
            raise Failure(f"{name} tells no {metric}")
        return sum(float(value) for value in lines)

    def kill(self, name):
        process = self.running[name]
        process.kill()
        process.wait()
        self.stage.processes.remove(process)

    def restart(self, name):
        """Asks a role to end, and starts it when it has."""
        self.leaves(name, self.running[name], asked=True)
        self.start_role(name)

    def leaves(self, name, process, asked):
        """Waits until a process has drained, and says so when it did not end as it should."""
        if asked:
            process.terminate()
        try:
            code = process.wait(self.layout.drain + LEAVE_WITHIN)
        except subprocess.TimeoutExpired:
            self.complaints.append(f"{name} {process.pid} has not ended {self.layout.drain + LEAVE_WITHIN} s after it should drain")
            process.kill()
            code = process.wait()
        else:
            if code:
                self.complaints.append(f"{name} {process.pid} drained and ended with code {code}")
        if process in self.stage.processes:
            self.stage.processes.remove(process)
        return code

    def upgrade(self, name):
        """Another process in a role's place, by `cmg upgrade`; until the one before has ended. How long each took, or None."""
        role, config = self.config(name)
        before, log = self.running[name], self.stage.path(f"{name}.log")
        size, began = os.path.getsize(log), time.monotonic()
        command = self.stage.start(name, [*self.network.inside(name), self.cmg, "upgrade", "--config", config])
        code = command.wait()
        self.stage.processes.remove(command)
        took = time.monotonic() - began
        with open(log, errors="replace") as file:
            file.seek(size)
            said = file.read()
        found = re.findall(rf"(?m)^{role} (\d+) has taken over$", said)
        if code or not found:
            self.complaints.append(f"upgrade of {name}: code {code} after {took:.1f} s:\n{said[-1500:]}")
            return None
        self.running[name] = Adopted(int(found[-1]), name)
        self.stage.processes.append(self.running[name])
        self.leaves(name, before, asked=False)
        return took, time.monotonic() - began

    def look_for_deaths(self):
        for name, process in self.running.items():
            if process.poll() is not None:
                self.complaints.append(f"{name} ended by itself with code {process.returncode}:\n{self.stage.log(process)}")
        for name in self.layout.roles:
            with open(self.stage.path(f"{name}.log"), errors="replace") as log:
                panics = [line.strip() for line in log if "panicked at" in line]
            if panics:
                self.complaints.append(f"{name} panicked: {panics[0]}")

    # ── load ──────────────────────────────────────────────────────────────────────────────────────────

    def load(self, name, out, code, more):
        """Starts a load generator that asks a site at all gateways; its report and its log are NAME.json and NAME.log.json."""
        targets = ",".join(f"{self.network.address(one)}:{CLIENT_PORT}" for one in self.layout.gateway_names)
        load = Load(os.path.join(out, f"{name}.json"), os.path.join(out, f"{name}.failures.json"))
        argv = [self.loadgen, "clients", "--target", targets, "--name", NAME, "--ca", self.stage.path("pki", "ca.pem"),
                "--clients-dir", self.stage.path("pki", "clients"), "--threads", "1", "--allow-failures", "--resume",
                "--json", load.report_path, "--log", load.log_path]
        if "--path" not in more:
            argv += ["--path", self.layout.path(code)]
        load.process = self.start(name, [*argv, *(str(word) for word in more)])
        return load

    def end(self, load):
        """Interrupts a load generator and reads what it wrote."""
        if load.process.poll() is None:
            load.process.send_signal(signal.SIGINT)
        return self.finish(load)

    def finish(self, load):
        code = load.process.wait()
        self.running.pop(load.process.title, None)
        if load.process in self.stage.processes:
            self.stage.processes.remove(load.process)
        try:
            load.read()
        except OSError as error:
            raise Failure(f"{load.process.title} ended with code {code}: {error}\n{self.stage.log(load.process)}") from error
        return load

    def seen(self):
        return json.loads(self.network.ask("origin", CONTROL_PORT, "/seen")[1])

    def seen_of(self, ids):
        """Which of these ids the origin has seen."""
        found, ids = set(), list(ids)
        for at in range(0, len(ids), IDS_AT_ONCE):
            text = self.network.ask("origin", CONTROL_PORT, f"/seen?id={','.join(ids[at:at + IDS_AT_ONCE])}")[1]
            found |= set(json.loads(text)["seen"])
        return found


class Load:
    """A load generator, and what it wrote when it has ended."""

    def __init__(self, report_path, log_path):
        self.report_path, self.log_path = report_path, log_path

    def read(self):
        with open(self.report_path) as file:
            self.report = json.load(file)
        with open(self.log_path) as file:
            first, *self.entries = [json.loads(line) for line in file]
        self.began = first["at"]
        for entry in self.entries:
            if entry["kind"] == "lost":
                raise Failure(f"{self.log_path} lacks {entry['entries']} entries")
