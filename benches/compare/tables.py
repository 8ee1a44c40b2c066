"""From raw runs to medians, ratios with their spread, Markdown tables, and what was lost.

A ratio is taken between two runs of the same round, which stood next to each other in time; what is shown is the median
of the rounds with the lowest and the highest.
"""

from statistics import median

from cases import CASES
from peers import PEERS


class Results:
    """All runs of a comparison."""

    def __init__(self, lines):
        self.loads, self.crypto, self.calls = {}, {}, {}
        for line in lines:
            case, peer, number = line["case"], line["peer"], line["round"]
            if "load" in line:
                self.loads.setdefault((case, peer), {})[number] = line["load"]
            if "crypto" in line:
                self.crypto.setdefault(case, {})[number] = line["crypto"]
            if line.get("calls"):
                self.calls.setdefault((case, peer), {})[number] = line["calls"]

    def cases(self):
        return [name for name in CASES if any(case == name for case, _ in self.loads)]

    def peers(self, case):
        return [name for name in PEERS if (case, name) in self.loads]

    def values(self, case, peer, of):
        """Round to value, of the runs that have one."""
        found = {number: of(load) for number, load in self.loads.get((case, peer), {}).items()}
        return {number: value for number, value in found.items() if value is not None}

    def ratio(self, case, of, peer, of_peer=None, name="cmg"):
        """cmg to another, round by round."""
        return quotient(self.values(case, name, of), self.values(case, peer, of_peer or of))

    def rounds(self):
        return max((len(runs) for runs in self.loads.values()), default=0)


def quotient(above, below):
    return [above[number] / below[number] for number in sorted(above) if below.get(number)]


# ── what a run of loadgen says ──────────────────────────────────────────────────────────────────

def front(load):
    """CPU microseconds per request of the process that ends the clients' TLS."""
    costs = per_request(load)
    return costs[0] if costs else None


def every(load):
    """CPU microseconds per request of all processes of the peer."""
    costs = per_request(load)
    return sum(costs) if costs else None


def per_request(load):
    costs = [process.get("cpu_micros_per_request") for process in load.get("processes", [])]
    return None if None in costs or not any(costs) else costs


def latency(name):
    return lambda load: (load.get("latency") or {}).get(name)


def rate(load):
    return load.get("rate")


def memory_front(load):
    grown = [process.get("resident_per_connection") for process in load.get("processes", [])]
    return grown[0] if grown else None


def memory_every(load):
    grown = [process.get("resident_per_connection") for process in load.get("processes", [])]
    return sum(grown) if grown and None not in grown else None


def errors(load):
    """Requests that failed, as loadgen counts them; a run without a report counts as one."""
    failures = load.get("failures")
    if failures is None:
        return 1
    kinds = [count for count in failures.values() if isinstance(count, int)]
    return sum(kinds) + sum((failures.get("status") or {}).values())


def calls_of_load(load):
    """System calls per request of the front, when loadgen counted them itself."""
    for process in load.get("processes", [])[:1]:
        return process.get("syscalls_per_request")
    return None


def front_calls(results, case, peer):
    counted = results.values(case, peer, calls_of_load)
    if counted:
        return median(counted.values())
    runs = results.calls.get((case, peer), {})
    fronts = [next(iter(calls.values())) for calls in runs.values()]
    return median(fronts) if fronts else None


# ── cells and tables ────────────────────────────────────────────────────────────────────────────

def number(value):
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def middle(values):
    return number(median(values.values())) if values else "–"


def spread(ratios):
    if not ratios:
        return "–"
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def case_table(results, name):
    case = CASES[name]
    if case.is_held:
        return memory_table(results, name)
    head = ["peer", f"front, µs/{case.unit}", f"all hops, µs/{case.unit}", "gateway ÷ front", "cmg ÷ all hops", "rate/s",
            "p50 ms", "p99 ms", "p99.9 ms", "calls/request", "errors"]
    rows = []
    for peer in results.peers(name):
        values = lambda of, peer=peer: results.values(name, peer, of)
        compared = peer != "cmg"
        calls = front_calls(results, name, peer)
        rows.append([
            PEERS[peer].title, middle(values(front)), middle(values(every)),
            spread(results.ratio(name, front, peer)) if compared else "1",
            spread(results.ratio(name, every, peer)) if compared else "1",
            middle(values(rate)), *(middle(values(latency(key))) for key in ("p50_ms", "p99_ms", "p999_ms")),
            "–" if calls is None else f"{calls:.2f}", str(sum(values(errors).values())),
        ])
    text = table(head, rows)
    if name in results.crypto:
        text += "\n\n" + crypto_line(results, name)
    return text


def crypto_key(name):
    return "full_us" if name.endswith("full") else "resumed_us"


def crypto_line(results, name):
    costs = {number: crypto[crypto_key(name)] for number, crypto in results.crypto[name].items()}
    line = f"Crypto floor in the same rounds: {middle(costs)} µs."
    for peer in results.peers(name):
        line += f" {PEERS[peer].title} {spread(quotient(costs, results.values(name, peer, front)))}."
    return line + " (Floor ÷ all CPU that a connection costs the front.)"


def memory_table(results, name):
    head = ["peer", "front, bytes/client", "all hops, bytes/client", "gateway ÷ front", "errors"]
    rows = [[
        PEERS[peer].title, middle(results.values(name, peer, memory_front)),
        middle(results.values(name, peer, memory_every)),
        spread(results.ratio(name, memory_front, peer)) if peer != "cmg" else "1",
        str(sum(results.values(name, peer, errors).values())),
    ] for peer in results.peers(name)]
    notes = [f"{PEERS[peer].title}: not measured, {why}." for peer, why in unmeasured(results, name)]
    if len(results.values(name, "cmg", memory_front)) == 1:
        notes.insert(0, "One round, so without a spread.")
    return "\n\n".join([table(head, rows), *([" ".join(notes)] if notes else [])])


def unmeasured(results, name):
    """Peers that held nobody in any round, and what loadgen said of it."""
    for peer in results.peers(name):
        if not results.values(name, peer, memory_front):
            yield peer, next(iter(results.values(name, peer, lambda load: load.get("first_failure")).values()), "no report")


def summary(results):
    """One row per kind of work: CPU of the front, or what the work is about."""
    present = [name for name in PEERS if any(name in results.peers(case) for case in results.cases())]
    shown = [name for name in present if name not in ("cmg", "floor")]
    head = ["work", "unit", "cmg gateway", "cmg both", *(PEERS[name].title for name in shown)]
    ratios = [name for name in ("nginx", "haproxy") if name in present]
    head += [f"gateway ÷ {name}" for name in ratios]
    return table(head, [row for case in results.cases() for row in summary_rows(results, case, shown, ratios)])


def summary_rows(results, name, shown, ratios):
    case = CASES[name]
    if case.is_held:
        yield summary_row(results, name, "bytes/client", memory_front, memory_every, shown, ratios)
        return
    yield summary_row(results, name, f"CPU µs/{case.unit}", front, every, shown, ratios)
    if name == "open-6000":
        p99 = latency("p99_ms")
        yield summary_row(results, name, "p99 ms", p99, p99, shown, ratios)


def summary_row(results, name, unit, of, of_all, shown, ratios):
    cells = [middle(results.values(name, peer, of_all if len(processes(results, name, peer)) > 1 else of))
             for peer in shown]
    return [CASES[name].title, unit, middle(results.values(name, "cmg", of)), middle(results.values(name, "cmg", of_all)),
            *cells, *(spread(results.ratio(name, of, peer)) for peer in ratios)]


def processes(results, name, peer):
    runs = results.loads.get((name, peer), {})
    return next((load.get("processes", []) for load in runs.values()), [])


def losses(results):
    """Where another does the same work for less, or sooner: one line each."""
    lines = []
    for name in results.cases():
        case = CASES[name]
        measures = [("memory of an idle client", memory_front, "the gateway")] if case.is_held else [
            (f"CPU per {case.unit}", front, "the gateway"), (f"CPU per {case.unit}", every, "both roles, two hops,")]
        if name == "open-6000":
            measures += [("p99", latency("p99_ms"), "cmg"), ("p99.9", latency("p999_ms"), "cmg")]
        for what, of, who in measures:
            lost = lost_to(results, name, of)
            if lost:
                lines.append(f"- {case.title}: {what} of {who} is {', '.join(lost)}")
    return lines


def lost_to(results, name, of):
    found = []
    for peer in results.peers(name):
        ratios = results.ratio(name, of, peer)
        if peer not in ("cmg", "floor") and ratios and median(ratios) > 1.0:
            found.append(f"{spread(ratios)} × {PEERS[peer].title}")
    return found


def document(results, facts):
    """All of it as Markdown."""
    lost = losses(results)
    parts = [head_line(facts, results), "### Summary", summary(results),
             "CPU is that of the process which ends the clients' TLS; \"cmg both\" and peers of several processes are the sum of all "
             "hops. Ratios are medians of rounds, with the lowest and the highest.",
             "### Where cmg loses", "\n".join(lost) or "Nowhere in this run."]
    for name in results.cases():
        parts += [f"### {name}: {CASES[name].title}", case_table(results, name)]
    return "\n\n".join(parts) + "\n"


def head_line(facts, results):
    machine = facts["machine"]
    programs = ", ".join(f"{name} {line}" for name, line in facts["versions"].items() if name != "cmg")
    commits = ", ".join(facts["commits"])
    note = f" {facts['note']}" if facts.get("note") else ""
    return (f"{facts['date']}, commit {commits}, {facts['profile']}; {results.rounds()} rounds at most, seed {facts['seed']}.{note}\n"
            f"{machine['cpus']} × {machine['cpu']}, Linux {machine['kernel']}, {machine['memory_gib']} GiB, "
            f"{machine['congestion_control']}, transparent huge pages {machine['huge_pages']}.\n{programs}.")
