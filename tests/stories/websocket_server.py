"""A real WebSocket server: says back what it hears, and leaves when it is told to.

websocket_server.py PORT [CERTIFICATE KEY]
"""

import asyncio
import resource
import ssl
import sys

import websockets


async def serve(socket):
    async for message in socket:
        if message == "leave":
            await socket.close()
            return
        await socket.send(message)


async def main(port, *pair):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    context = None
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
    how = {"ssl": context, "max_size": None, "compression": None, "ping_interval": None, "backlog": 2048}
    async with websockets.serve(serve, "127.0.0.1", int(port), **how):
        await asyncio.Future()


asyncio.run(main(*sys.argv[1:]))
