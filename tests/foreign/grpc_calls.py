"""A gRPC client of bytes: `grpc_calls.py PORT SERVICE [CA]` plays every check below against grpc_server.py behind
a proxy on localhost. Without CA (a file) it speaks HTTP/2 without TLS.
"""

import inspect
import queue
import sys
import time
from concurrent import futures

import grpc

PATIENCE = 30
"""Seconds that any one call may take."""


class Service:
    def __init__(self, channel, name):
        self.channel, self.name = channel, name

    def call(self, kind, method):
        return getattr(self.channel, kind)(f"/{self.name}/{method}")


def status(call):
    """The error that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it succeeded")


def trailing(call):
    return [(key, value) for key, value in call.trailing_metadata() if key.startswith("trailing")]


TRAILING = [("trailing", "yes"), ("trailing-bin", b"\x00\xff")]


def check_one_for_one(service):
    echo = service.call("unary_unary", "Echo")
    for size in [0, 1, 70_000, 3 << 20]:
        data = bytes(at % 251 for at in range(1000)) * (size // 1000) + b"x" * (size % 1000)
        answer, call = echo.with_call(data, timeout=PATIENCE)
        assert answer == data and call.code() == grpc.StatusCode.OK
        assert trailing(call) == TRAILING, call.trailing_metadata()


def check_many_at_once(service):
    echo = service.call("unary_unary", "Echo")
    calls = [echo.future(b"%d" % at, timeout=PATIENCE) for at in range(200)]
    assert [int(call.result()) for call in calls] == list(range(200))


def check_many_for_one(service):
    pieces = service.call("unary_stream", "Count")(b"500", timeout=PATIENCE)
    assert [int(piece) for piece in pieces] == list(range(500))


def check_one_for_many(service):
    add = service.call("stream_unary", "Add")
    assert add(iter([b"one", b"two", b"three"]), timeout=PATIENCE) == b"one+two+three"
    assert add(iter([]), timeout=PATIENCE) == b""


def check_question_and_answer_by_turns(service):
    questions = queue.Queue()
    chat = service.call("stream_stream", "Chat")(iter(questions.get, None), timeout=PATIENCE)
    assert ("leading", "yes") in chat.initial_metadata(), "before anything was asked"
    for turn in range(20):
        questions.put(b"%d" % turn)
        assert next(chat) == b"got %d" % turn
    questions.put(None)
    assert list(chat) == []
    assert chat.code() == grpc.StatusCode.OK and trailing(chat) == TRAILING


def check_an_error(service):
    error = status(lambda: service.call("unary_unary", "Fail")(b"", timeout=PATIENCE))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: ä%")
    assert trailing(error) == TRAILING


def check_an_error_behind_an_answer(service):
    pieces = service.call("unary_stream", "FailLate")(b"", timeout=PATIENCE)
    assert next(pieces) == b"one"
    error = status(lambda: next(pieces))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "in the middle")


def check_a_method_that_is_not_there(service):
    error = status(lambda: service.call("unary_unary", "Nothing")(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def check_metadata(service):
    sent = (("plain", "one"), ("plain", "two"), ("with_underscore", "kept"), ("some-bin", b"\x00\x80"))
    seen = service.call("unary_unary", "Metadata")(b"", metadata=sent, timeout=PATIENCE).decode()
    for line in ["plain=one", "plain=two", "with_underscore=kept", f"some-bin={sent[3][1]}"]:
        assert line in seen.split("\n"), (line, seen)


def check_a_deadline(service):
    began = time.monotonic()
    error = status(lambda: service.call("unary_unary", "Wait")(b"", timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < PATIENCE


def check_a_call_that_is_cancelled(service):
    call = service.call("unary_unary", "Wait").future(b"", timeout=PATIENCE)
    assert call.cancel()
    try:
        call.result()
    except (grpc.FutureCancelledError, futures.CancelledError):
        pass
    # The channel goes on.
    assert service.call("unary_unary", "Echo")(b"on", timeout=PATIENCE) == b"on"


def main(port, name, ca=None):
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 8 << 20)]
    options += [("grpc.max_send_message_length", 8 << 20)]
    if ca:
        with open(ca, "rb") as ca:
            credentials = grpc.ssl_channel_credentials(ca.read())
        channel = grpc.secure_channel(f"localhost:{port}", credentials, options)
    else:
        channel = grpc.insecure_channel(f"localhost:{port}", options)
    checks = [it for key, it in globals().items() if key.startswith("check_") and inspect.isfunction(it)]
    with channel:
        for check in checks:
            check(Service(channel, name))
            print("passed:", check.__name__.removeprefix("check_").replace("_", " "), flush=True)


main(*sys.argv[1:])
