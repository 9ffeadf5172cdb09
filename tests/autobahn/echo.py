"""An echo server on wsproto, which passes every case of the suite: what direct means.

Prints its port, then echoes data messages of any size until its standard input ends.
"""

import asyncio
import sys

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Message,
    Ping,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import RemoteProtocolError


def answers(connection, begun):
    """What the events of a connection are answered with, and whether it is over."""
    answer, over = b"", False
    for event in connection.events():
        if isinstance(event, Request):
            accept = AcceptConnection(extensions=[PerMessageDeflate()])
            answer += connection.send(accept)
        elif isinstance(event, Message):
            begun.append(event.data)
            if event.message_finished:
                empty = "" if isinstance(event, TextMessage) else b""
                answer += connection.send(Message(data=empty.join(begun)))
                begun.clear()
        elif isinstance(event, Ping):
            answer += connection.send(event.response())
        elif isinstance(event, CloseConnection):
            answer += connection.send(event.response())
            over = True
    return answer, over


async def serve(reader, writer):
    connection, begun, over = WSConnection(ConnectionType.SERVER), [], False
    try:
        while not over and (data := await reader.read(1 << 16)):
            connection.receive_data(data)
            answer, over = answers(connection, begun)
            writer.write(answer)
            await writer.drain()
    except (ConnectionError, RemoteProtocolError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
