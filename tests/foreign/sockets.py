"""WebSockets over HTTP/2 (RFC 8441) as Python's h2 and wsproto speak them.

    sockets.py PORT [CA]

Plays every check below against a proxy on 127.0.0.1 in front of an echo server that chooses the first subprotocol
offered. The proxy compresses on `/terminated/`, answers `/refused` with 403 and passes the rest on. Without CA (a
file) it speaks HTTP/2 with prior knowledge.
"""

import inspect
import socket
import ssl
import sys

import h2.events as http
import wsproto.events as ws
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from wsproto.connection import Connection as Frames, ConnectionType
from wsproto.extensions import PerMessageDeflate

PATIENCE = 30
"""Seconds that any one event may take."""


class Connection:
    """An HTTP/2 connection and its streams."""

    def __init__(self, port, ca):
        self.scheme = "https" if ca else "http"
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        if ca:
            context = ssl.create_default_context(cafile=ca)
            context.set_alpn_protocols(["h2", "http/1.1"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            assert self.socket.selected_alpn_protocol() == "h2"
        self.streams = {}
        self.settled = False
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.until(lambda: self.settled)

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def until(self, there):
        """Sends, and reads until something is there, which is returned."""
        self.flush()
        while not (found := there()):
            data = self.socket.recv(1 << 16)
            assert data, "the proxy closed the connection"
            for event in self.http.receive_data(data):
                self.take(event)
            self.flush()
        return found

    def take(self, event):
        if isinstance(event, http.ConnectionTerminated):
            raise AssertionError(f"GOAWAY {event.error_code}")
        if isinstance(event, http.RemoteSettingsChanged):
            self.settled = True
        stream = self.streams.get(getattr(event, "stream_id", None))
        if stream:
            stream.take(event)

    def ask(self, method, path=None, *fields, protocol=None, end=False):
        """Sends the head of a request."""
        pseudo = [(":method", method), (":authority", "localhost")]
        if path:
            pseudo += [(":scheme", self.scheme), (":path", path)]
        if protocol:
            pseudo += [(":protocol", protocol)]
        stream = Stream(self, self.http.get_next_available_stream_id())
        self.streams[stream.number] = stream
        self.http.send_headers(stream.number, [*pseudo, *fields], end_stream=end)
        return stream

    def connect(self, path, *fields):
        """Asks for a WebSocket, and does not wait for the answer."""
        return self.ask("CONNECT", path, ("sec-websocket-version", "13"), *fields, protocol="websocket")

    def open(self, path="/echo", *fields, extensions=()):
        """A WebSocket."""
        stream = self.connect(path, *fields)
        assert stream.status() == 200, stream.head
        return Socket(stream, extensions)


class Stream:
    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.head, self.data, self.ended, self.reset = None, bytearray(), False, None
        self.keeps_window = False
        """Nothing is given back to the windows: nobody reads this stream."""

    def take(self, event):
        if isinstance(event, http.ResponseReceived):
            self.head = dict(event.headers)
        elif isinstance(event, http.DataReceived):
            self.data += event.data
            if not self.keeps_window:
                length = event.flow_controlled_length
                self.connection.http.acknowledge_received_data(length, self.number)
        elif isinstance(event, http.StreamEnded):
            self.ended = True
        elif isinstance(event, http.StreamReset):
            self.reset = event.error_code

    def status(self):
        self.connection.until(lambda: self.head)
        return int(self.head[":status"])

    def whole(self):
        """The body, up to its end."""
        self.connection.until(lambda: self.ended)
        return bytes(self.data)

    def send(self, data, end=False):
        """Sends as the windows allow it, reading meanwhile."""
        connection, data = self.connection, memoryview(data)
        while data:
            room = connection.until(lambda: connection.http.local_flow_control_window(self.number))
            room = min(room, connection.http.max_outbound_frame_size, len(data))
            connection.http.send_data(self.number, bytes(data[:room]), end_stream=end and room == len(data))
            data = data[room:]
        connection.flush()


class Socket:
    """A WebSocket on a stream."""

    def __init__(self, stream, extensions):
        self.stream = stream
        self.frames = Frames(ConnectionType.CLIENT, extensions=list(extensions))
        self.events = []

    def send(self, event, end=False):
        self.stream.send(self.frames.send(event), end)

    def event(self):
        """The next one."""

        def next_event():
            if self.stream.data:
                self.frames.receive_data(bytes(self.stream.data))
                self.stream.data.clear()
                self.events += self.frames.events()
            broken = self.stream.ended or self.stream.reset is not None
            assert self.events or not broken, "it broke off"
            return self.events

        return self.stream.connection.until(next_event).pop(0)

    def message(self):
        whole = None
        while True:
            event = self.event()
            assert isinstance(event, ws.Message), event
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return whole

    def echoes(self, data):
        self.send(ws.TextMessage(data) if isinstance(data, str) else ws.BytesMessage(data))
        assert self.message() == data

    def close(self, code, reason):
        self.send(ws.CloseConnection(code, reason))
        event = self.event()
        assert isinstance(event, ws.CloseConnection) and event.code == code, event


def check_the_announcement(connection):
    assert connection.http.remote_settings.enable_connect_protocol == 1


def check_echoes_of_all_sizes(connection):
    socket = connection.open()
    for size in [0, 1, 125, 126, 65_535, 65_536, 300_000]:
        socket.echoes(bytes(at % 251 for at in range(size)))
        socket.echoes("ä€" * (size // 5))
    socket.close(1000, "done")


def check_fragments_with_a_ping_between_them(connection):
    socket = connection.open()
    socket.send(ws.TextMessage("one ", message_finished=False))
    socket.send(ws.Ping(b"still there?"))
    assert socket.event() == ws.Pong(b"still there?")
    socket.send(ws.TextMessage("two ", message_finished=False))
    socket.send(ws.TextMessage("three"))
    assert socket.message() == "one two three"


def check_what_is_sent_before_the_answer(connection):
    stream = connection.connect("/echo")
    frames = Frames(ConnectionType.CLIENT)
    connection.http.send_data(stream.number, frames.send(ws.TextMessage("early")))
    assert stream.status() == 200
    socket = Socket(stream, [])
    assert socket.message() == "early"
    socket.echoes("late")


def check_subprotocols(connection):
    offer = ("sec-websocket-protocol", "chat.v2, chat.v1")
    socket = connection.open("/echo", offer)
    assert socket.stream.head["sec-websocket-protocol"] == "chat.v2"
    # What belongs to HTTP/1.1 stays there.
    for name in ["sec-websocket-accept", "upgrade", "connection"]:
        assert name not in socket.stream.head, name
    assert "sec-websocket-protocol" not in connection.open().stream.head


def check_compression(connection):
    deflate = PerMessageDeflate(client_max_window_bits=15)
    offer = ("sec-websocket-extensions", f"permessage-deflate; {deflate.offer()}")
    stream = connection.connect("/terminated/echo", offer)
    assert stream.status() == 200
    deflate.finalize(stream.head["sec-websocket-extensions"])
    socket = Socket(stream, [deflate])
    for _ in range(3):
        socket.echoes("the same again and again " * 4000)


def check_many_on_one_connection_with_requests_beside_them(connection):
    sockets = [connection.open() for _ in range(40)]
    for turn in range(3):
        for at, socket in enumerate(sockets):
            socket.send(ws.TextMessage(f"{turn} of {at}"))
        page = connection.ask("GET", "/refused", end=True)
        for at, socket in reversed(list(enumerate(sockets))):
            assert socket.message() == f"{turn} of {at}"
        assert page.status() == 403
    for socket in sockets:
        socket.close(1000, "")


def check_a_reset_stream_leaves_the_others_alone(connection):
    sockets = [connection.open() for _ in range(3)]
    connection.http.reset_stream(sockets[1].stream.number, ErrorCodes.CANCEL)
    sockets[0].echoes("before")
    sockets[2].echoes("behind")


def check_a_stalled_stream_leaves_the_others_alone(connection):
    stalled, live = connection.open(), connection.open()
    stalled.stream.keeps_window = True
    # Ten frames of 10,000 bytes: more than the 65,535 that it may have unread.
    for _ in range(10):
        stalled.send(ws.BytesMessage(bytes(10_000)))
    # The whole window of the stream, but not the whole of the connection's.
    connection.http.increment_flow_control_window(1 << 20)
    unread = stalled.stream
    connection.until(lambda: len(unread.data) == 65_535)
    for turn in range(5):
        live.echoes(f"turn {turn}")
    unread.keeps_window = False
    connection.http.acknowledge_received_data(65_535, unread.number)
    for _ in range(10):
        assert stalled.message() == bytes(10_000)


def check_close_codes(connection):
    for code in [1000, 1001, 3000, 4999]:
        socket = connection.open()
        socket.close(code, "bye")
        connection.until(lambda: socket.stream.ended)
        assert socket.stream.reset in (None, ErrorCodes.NO_ERROR)


def check_a_close_that_ends_the_stream(connection):
    # As Chromium does.
    socket = connection.open()
    socket.send(ws.CloseConnection(4321, "all at once"), end=True)
    event = socket.event()
    assert isinstance(event, ws.CloseConnection) and event.code == 4321, event


def check_refusals(connection):
    refused = connection.connect("/refused")
    assert (refused.status(), refused.whole()) == (403, b"no\n")
    assert connection.ask("CONNECT", "/echo", protocol="connect-udp").status() == 501
    assert connection.ask("CONNECT").status() == 405
    version = ("sec-websocket-version", "12")
    assert connection.ask("CONNECT", "/echo", version, protocol="websocket").status() in (400, 426)
    connection.open().echoes("still there")


def main(port, ca=None):
    checks = [it for name, it in globals().items() if name.startswith("check_") and inspect.isfunction(it)]
    for check in checks:
        connection = Connection(int(port), ca)
        check(connection)
        connection.http.close_connection()
        connection.flush()
        connection.socket.close()
        print("passed:", check.__name__.removeprefix("check_").replace("_", " "), flush=True)


main(*sys.argv[1:])
