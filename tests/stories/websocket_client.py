"""Real WebSocket clients, each with the client's certificate.

websocket_client.py echo|many PORT PATH CA CERTIFICATE KEY COUNT [tls1.2]
"""

import asyncio
import os
import resource
import ssl
import sys

import websockets

SERVICE = "cmg.test"
SIZES = [0, 1, 125, 126, 65535, 65536, 1000000, 3000000]


def connector(port, path, ca, certificate, key, *versions):
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    if "tls1.2" in versions:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    how = {"host": "127.0.0.1", "ssl": context, "server_hostname": SERVICE, "max_size": None}
    how |= {"compression": None, "ping_interval": None, "open_timeout": 120, "close_timeout": 60}
    return lambda: websockets.connect(f"wss://{SERVICE}:{port}{path}", **how)


async def heard_back(socket, message):
    await socket.send(message)
    answer = await socket.recv()
    assert answer == message, f"{len(answer)} for {len(message)}"


async def echo(connect, count):
    """Messages of many sizes, one by one and then all at once."""
    async with connect() as socket:
        for size in SIZES:
            await heard_back(socket, os.urandom(size))
            await heard_back(socket, "ä" * (size // 2))
        messages = [os.urandom(size) for size in SIZES * count]

        async def hear():
            return [await socket.recv() for _ in messages]

        heard = asyncio.create_task(hear())
        for message in messages:
            await socket.send(message)
        assert await heard == messages
    assert socket.close_code == 1000, socket.close_code


async def many(connect, count):
    """So many sessions at once; they say when they stand, and end when they are told to."""
    gate = asyncio.Semaphore(50)

    async def begin(number):
        async with gate:
            socket = await connect()
        await heard_back(socket, f"session {number}")
        return socket

    sockets = await asyncio.gather(*map(begin, range(count)))
    await asyncio.gather(*(heard_back(socket, os.urandom(20_000)) for socket in sockets))
    print("all stand", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    async def end(number, socket):
        if number % 2 == 0:
            await socket.close()
        else:
            await socket.send("leave")
            await socket.wait_closed()
        assert socket.close_code == 1000, socket.close_code

    await asyncio.gather(*(end(*session) for session in enumerate(sockets)))


def main(story, port, path, ca, certificate, key, count, *versions):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    connect = connector(port, path, ca, certificate, key, *versions)
    asyncio.run({"echo": echo, "many": many}[story](connect, int(count)))
    print("all well", flush=True)


main(*sys.argv[1:])
