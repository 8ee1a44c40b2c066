"""What the logs of load generators come to: each failure under one name, and how many there were in which time."""

from collections import Counter

# A goodbye that comes so soon behind a request was sent before the gateway could have read it, if the origin never saw it.
CROSSED_MS = 250
# Names of failures: what a client may see when something between it and the origin breaks, and what never.
STATUS, CUT, REFUSED, UNREAD, UNCLEAR = "5xx", "cut", "refused", "unread", "unclear"
MISROUTED, CORRUPTED, UNASKED = "misrouted", "corrupted", "unasked"
NEVER = (MISROUTED, CORRUPTED, UNASKED, UNCLEAR)
REQUESTS = (STATUS, CUT, *NEVER)
KINDS = {"wrong id": MISROUTED, "wrong body": CORRUPTED, "unasked": UNASKED, "malformed": UNASKED, "cut": CUT, "connect": REFUSED,
         "handshake": REFUSED}


def unread_ids(loads):
    """Requests that may have been closed unread: whether they were depends on whether the origin saw them."""
    return {entry["id"] for load in loads for entry in load.entries if may_be_unread(entry)}


def may_be_unread(entry):
    """A request asked on a connection at rest that ended without a byte of an answer, by the gateway's goodbye."""
    return entry["kind"] == "goodbye" and not entry.get("begun") and "rest_ms" in entry and entry["asked_ms"] < CROSSED_MS


def judge(entry, seen):
    """The name of a failure, and how it came in words."""
    kind, text = entry["kind"], entry.get("text", "")
    if kind == "status":
        status = entry["status"]
        return (STATUS if status >= 500 else UNCLEAR), f"{status} {text}".strip()
    if may_be_unread(entry) and entry["id"] not in seen:
        return UNREAD, "closed unread"
    if kind == "goodbye":
        where = "in the answer" if entry.get("begun") else "before the answer"
        return CUT, f"goodbye {where}"
    if kind == "cut":
        where = "in the answer" if entry.get("begun") else "before the answer"
        return CUT, f"cut {where}" + (f": {text}" if text else "")
    if kind in KINDS:
        return KINDS[kind], f"{kind}: {text}" if text else kind
    return UNCLEAR, f"{kind}: {text}" if text else kind


class Told:
    """All that several load generators saw, sorted."""

    def __init__(self, loads, seen):
        self.loads, self.failures, self.gaps = loads, [], []
        for load in loads:
            for entry in load.entries:
                if entry["kind"] == "gap":
                    lasted = entry["lasted_ms"] / 1000
                    self.gaps.append((entry["at"] + lasted / 2, lasted, entry["target"]))
                else:
                    self.failures.append((entry["at"], *judge(entry, seen), entry))

    def within(self, began, ended):
        return Window(self, began, ended)


class Window:
    """What came between two moments."""

    def __init__(self, told, began, ended):
        inside = [(name, how, entry) for at, name, how, entry in told.failures if began <= at < ended]
        self.names = Counter(name for name, *_ in inside)
        self.hows = Counter((name, how) for name, how, _ in inside)
        self.entries = [entry for _, _, entry in inside]
        self.gap = max((lasted for middle, lasted, _ in told.gaps if began <= middle < ended), default=0.0)
        self.seconds = ended - began
        self.answered, self.longest = 0, 0.0
        for load in told.loads:
            for second in load.report["timeline"]:
                if began <= load.began + second["at"] < ended:
                    self.answered += round(second["rate"] * second["seconds"])
                    self.longest = max(self.longest, second["latency"]["max_ms"] / 1000)

    def failed(self):
        return sum(self.names[name] for name in REQUESTS)

    def never(self):
        return sum(self.names[name] for name in NEVER)

    def cells(self):
        failed = self.failed()
        percent = 100 * failed / max(self.answered + failed, 1)
        return [f"{self.answered:,}", str(failed), f"{percent:.3f}", str(self.names[STATUS]), str(self.names[CUT]),
                str(self.never()), str(self.names[UNREAD]), str(self.names[REFUSED]), f"{self.longest:.2f}", f"{self.gap:.2f}"]


HEAD = ["answered", "failed", "failed, %", "5xx", "cut", "anything else", "closed unread", "connects refused",
        "longest answer, s", "longest gap, s"]


def row(cells):
    return "| " + " | ".join(cells) + " |"


def head(*names):
    names = [*names, *HEAD]
    return row(names) + "\n|" + "---|" * len(names)
