"""The targets that the data path is held to, each met or missed by the median of its rounds."""

from statistics import median

from tables import Results, crypto_key, errors, every, front, front_calls, latency, quotient, spread

SMALL = ("small-64", "small-1000")


class Target:
    """`values` are ratios or figures by round; met when the median is on the right side of `limit`."""

    def __init__(self, number, text, values, limit, at_least=False):
        self.number, self.text, self.values, self.limit, self.at_least = number, text, values, limit, at_least

    def is_met(self):
        if not self.values:
            return None
        middle = median(self.values)
        return middle >= self.limit if self.at_least else middle <= self.limit

    def line(self):
        word = {True: "met", False: "MISSED", None: "not measured"}[self.is_met()]
        sign = "≥" if self.at_least else "≤"
        return f"| {self.number} | {self.text} | {sign} {self.limit:g} | {spread(self.values)} | {word} |"


def targets(results: Results):
    found = []
    for case in SMALL:
        found += [Target(1, f"{case}: gateway ÷ {peer}", results.ratio(case, front, peer), limit)
                  for peer, limit in (("nginx", 0.45), ("haproxy", 0.45), ("floor", 2.0))]
    found += [Target(2, f"{case}: gateway and connector ÷ nginx", results.ratio(case, every, "nginx"), 1.0)
              for case in SMALL]
    for case, what, limit in (("handshake-only-full", "accept, handshake, close", 0.65),
                              ("handshake-full", "with one request", 0.65),
                              ("handshake-only-resumed", "accept, handshake, close", 0.40),
                              ("handshake-resumed", "with one request", 0.40)):
        floor = {number: costs[crypto_key(case)] for number, costs in results.crypto.get(case, {}).items()}
        ratios = quotient(floor, results.values(case, "cmg", front))
        found.append(Target(3, f"{case}: crypto floor ÷ gateway ({what})", ratios, limit, at_least=True))
    found += [Target(4, f"{case}: gateway ÷ nginx, per MiB", results.ratio(case, front, "nginx"), 0.8)
              for case in ("down-1m", "up-1m")]
    p99 = latency("p99_ms")
    found.append(Target(5, "open-6000: p99 ÷ that of nginx → nginx", results.ratio("open-6000", p99, "nginx-nginx"), 1.2))
    failed = list(results.values("open-6000", "cmg", errors).values())
    found.append(Target(5, "open-6000: errors of cmg, the worst round", [max(failed)] if failed else [], 0))
    for case in SMALL:
        calls = front_calls(results, case, "cmg")
        found.append(Target(6, f"{case}: system calls per request in the gateway", [] if calls is None else [calls], 0.5))
    return found


def table(results):
    lines = ["| target | what | limit | measured | |", "|---|---|---|---|---|"]
    lines += [target.line() for target in targets(results)]
    reported = [f"reported beside 5: p99 ÷ that of one nginx {spread(results.ratio('open-6000', latency('p99_ms'), 'nginx'))}, "
                f"p99.9 ÷ that of nginx → nginx {spread(results.ratio('open-6000', latency('p999_ms'), 'nginx-nginx'))}",
                "allocations per request (target 6) are counted by the benches of the cores, not from outside"]
    return "\n".join(lines) + "\n\n" + "; ".join(reported) + ".\n"


def are_all_met(results):
    return all(target.is_met() is not False for target in targets(results))
