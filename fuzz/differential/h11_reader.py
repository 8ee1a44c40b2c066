"""Reads messages with h11 and writes down what it saw, for src/readers.rs; src/reading.rs has the tags.

On standard input come batches: a count of messages, then for each its size, its kind (0 a request, 1 a
response, 2 one to HEAD) and its octets. A batch is read whole before anything is written, so that neither
side waits for the other. Numbers have four octets, little endian.
"""

import struct
import sys

import h11

NUMBER = struct.Struct("<I")
REQUEST, RESPONSE, RESPONSE_TO_HEAD = range(3)
COMPLETE, PARTIAL, REFUSED = range(3)
SIZE_MAX = 32 * 1024
# It asks for an upgrade, so that 101 is an answer to it.
ASKED = [("Host", "h"), ("Connection", "upgrade"), ("Upgrade", "websocket")]


def connection(kind):
    if kind == REQUEST:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=SIZE_MAX)
    conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=SIZE_MAX)
    method = "HEAD" if kind == RESPONSE_TO_HEAD else "GET"
    conn.send(h11.Request(method=method, target="/", headers=ASKED))
    conn.send(h11.EndOfMessage())
    return conn


def read(data, kind):
    notes = []

    def note(tag, octets):
        octets = bytes(octets)
        notes.append(tag + NUMBER.pack(len(octets)) + octets)

    def fields(headers, name_tag, value_tag):
        for name, value in headers.raw_items():
            note(name_tag, name)
            note(value_tag, value)

    conn = connection(kind)
    try:
        conn.receive_data(data)
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                return PARTIAL, 0, notes
            if event is h11.PAUSED:
                return REFUSED, 0, [b"x" + NUMBER.pack(6) + b"paused"]
            if isinstance(event, h11.Request):
                note(b"m", event.method)
                note(b"t", event.target)
            elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                note(b"r", event.reason)
            if isinstance(event, (h11.Request, h11.Response, h11.InformationalResponse)):
                fields(event.headers, b"n", b"f")
                status = getattr(event, "status_code", 0)
                note(b"h", bytes([event.http_version[2] - 48, status & 255, status >> 8]))
            elif isinstance(event, h11.Data):
                note(b"b", event.data)
            elif isinstance(event, h11.EndOfMessage):
                fields(event.headers, b"N", b"F")
            if isinstance(event, (h11.EndOfMessage, h11.InformationalResponse)):
                return COMPLETE, len(data) - len(conn.trailing_data[0]), notes
    except h11.RemoteProtocolError as error:
        text = str(error).encode()
        return REFUSED, 0, [b"x" + NUMBER.pack(len(text)) + text]


def main():
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while True:
        count = source.read(4)
        if len(count) < 4:
            return
        batch = []
        for _ in range(NUMBER.unpack(count)[0]):
            size, kind = NUMBER.unpack(source.read(4))[0], source.read(1)[0]
            batch.append((source.read(size), kind))
        for data, kind in batch:
            outcome, consumed, notes = read(data, kind)
            notes = b"".join(notes)
            sink.write(bytes([outcome]) + NUMBER.pack(consumed) + NUMBER.pack(len(notes)) + notes)
        sink.flush()


main()
