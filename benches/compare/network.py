"""Hosts that are network namespaces behind one bridge, and links between them that can be cut without either end hearing of it."""

import ctypes
import http.client
import os
import shutil
import subprocess
import threading

from stage import Failure

# A station that is not there.
NOBODY = "02:00:00:00:00:01"
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*words, check=True):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if check and done.returncode:
        raise Failure(f"ip {' '.join(words)}: {done.stderr.strip()}")


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Network:
    """A namespace for each host and one for the bridge between them; `hosts` gives each its number, 10.77.0.x."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.prefix = f"cmg{os.getpid()}"
        self.made = []
        self.ruled = set()

    def build(self):
        self.bridge = self.add("switch")
        ip("-n", self.bridge, "link", "add", "br0", "type", "bridge")
        ip("-n", self.bridge, "link", "set", "br0", "up")
        for host in self.hosts:
            self.join(host)

    def add(self, name):
        space = f"{self.prefix}-{name}"
        self.made.append(space)
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        return space

    def join(self, host):
        space, port = self.add(host), f"v-{host}"
        ip("-n", self.bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("-n", self.bridge, "link", "set", port, "master", "br0", "up")
        ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")

    def address(self, host):
        return f"10.77.0.{self.hosts[host]}"

    def inside(self, host):
        return ["ip", "netns", "exec", f"{self.prefix}-{host}"]

    def cut(self, one, other):
        """Sends packets of either to the other into the void."""
        for here, there in ((one, other), (other, one)):
            ip("-n", f"{self.prefix}-{here}", "neighbour", "replace", self.address(there), "lladdr", NOBODY, "dev", "eth0",
               "nud", "permanent")

    def heal(self, one, other):
        for here, there in ((one, other), (other, one)):
            ip("-n", f"{self.prefix}-{here}", "neighbour", "delete", self.address(there), "dev", "eth0")

    def block(self, host, port):
        """Packets to the port are dropped, and nobody is told."""
        if program("nft"):
            rules = f"table inet cmg {{ chain input {{ type filter hook input priority 0; tcp dport {port} drop; }}; }}"
            self.do(host, program("nft"), rules)
            return
        if host not in self.ruled:
            # The table of own addresses is asked first, before any rule that could stand in the way.
            ip("-n", f"{self.prefix}-{host}", "rule", "add", "pref", "10", "lookup", "local")
            ip("-n", f"{self.prefix}-{host}", "rule", "delete", "pref", "0")
            self.ruled.add(host)
        ip("-n", f"{self.prefix}-{host}", "rule", "add", "pref", "5", "iif", "eth0", "ipproto", "tcp", "dport", str(port), "blackhole")

    def unblock(self, host):
        if program("nft"):
            self.do(host, program("nft"), "delete table inet cmg")
        else:
            ip("-n", f"{self.prefix}-{host}", "rule", "delete", "pref", "5")

    def do(self, host, *words):
        done = subprocess.run([*self.inside(host), *words], capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"{' '.join(words)}: {done.stderr.strip()}")

    def ask(self, host, port, path):
        """Asks a listener on the loopback of a host: status (0: nobody answers) and body."""
        answer = [(0, "")]
        thread = threading.Thread(target=self.ask_inside, args=(host, port, path, answer))
        thread.start()
        thread.join()
        return answer[0]

    def ask_inside(self, host, port, path, answer):
        # A namespace is one thread's own.
        with open(f"/run/netns/{self.prefix}-{host}") as file:
            if LIBC.setns(file.fileno(), CLONE_NEWNET):
                return
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            told = connection.getresponse()
            answer[0] = (told.status, told.read().decode())
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()

    def close(self):
        for space in reversed(self.made):
            ip("netns", "delete", space, check=False)
