"""A gateway and a connection point as `cmg up` makes them, with more in `site.toml`, and an origin behind them."""

import json
import os
import re
import urllib.request

from stage import Failure


class Site:
    """`more` gets what `cmg up` told and the origin's URL, and gives what `site.toml` is to have besides.

    `label` keeps the files and logs of several sites of one stage apart; what `before` has for "gateway", "connector" and
    "origin" is put before the command line of each."""

    def __init__(self, stage, programs, more, label="", before=None, clients=20, shards=None):
        self.stage, self.cmg, self.loadgen = stage, *programs
        self.label, self.before = label, before or {}
        self.up = stage.path(label + "up")
        port = stage.port()
        self.origin_url = f"http://127.0.0.1:{port}"
        argv = [*self.before.get("origin", []), self.loadgen, "origin", "--listen", f"127.0.0.1:{port}"]
        self.processes = {"origin": stage.start(label + "origin", argv)}
        stage.wait_for_port(self.processes["origin"], port)
        self.make(more, clients, [] if shards is None else ["--shards", str(shards)])

    def make(self, more, clients, shards):
        stage, ready = self.stage, os.path.join(self.up, "up.json")
        made = stage.start(self.label + "up", [self.cmg, "up", "--dir", self.up, "--clients", str(clients), *shards,
                                               "--origin", self.origin_url])
        stage.wait_for_file(made, ready)
        with open(ready) as file:
            self.told = json.load(file)
        stage.stop(made)
        self.admin = self.told["admin"]["gateway"]
        path = os.path.join(self.up, "site.toml")
        with open(path) as file:
            site = file.read()
        # The gateway keeps what `cmg up` published: settings that differ need a higher serial.
        site, count = re.subn(r"(?m)^serial = (\d+)$", lambda found: f"serial = {int(found[1]) + 1}", site)
        if count != 1:
            raise Failure("site.toml is not as expected")
        with open(path, "w") as file:
            file.write(site + more(self.told, self.origin_url))

    def start(self):
        for role in ("gateway", "connector"):
            argv = [*self.before.get(role, []), self.cmg, role, "--config", os.path.join(self.up, f"{role}.toml")]
            self.processes[role] = self.stage.start(self.label + role, argv)
        # It went with `cmg up`; clients read it.
        pids = {role: process.pid for role, process in self.processes.items() if role != "origin"}
        with open(os.path.join(self.up, "up.json"), "w") as file:
            json.dump({**self.told, "pids": pids}, file)
        self.stage.wait_until(self.processes["gateway"], self.is_ready, "attached connection point")

    def stop(self):
        for role in ("connector", "gateway"):
            self.stage.stop(self.processes.pop(role))

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=1).status == 200
        except OSError:
            return False

    def status(self):
        try:
            with urllib.request.urlopen(f"http://{self.admin}/status", timeout=10) as answer:
                return json.load(answer)
        except OSError as error:
            raise Failure(f"the gateway's /status: {error}") from error

    def clients(self):
        return self.status()["clients"]
