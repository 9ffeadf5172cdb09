"""An echo server on websockets, which compresses every message it is asked to; no TLS on either port."""

import asyncio
import http

from websockets.asyncio.server import serve


def answer(connection, request):
    if "Upgrade" not in request.headers:
        return connection.respond(http.HTTPStatus.OK, "Hello.\n")


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    ports = [@PLAIN@, @TLS@]
    settings = {"process_request": answer, "ping_interval": None}
    async with serve(echo, "127.0.0.1", ports[0], **settings):
        async with serve(echo, "127.0.0.1", ports[1], **settings):
            await asyncio.Future()


asyncio.run(main())
