"""A gRPC server of bytes, without TLS and with it: `grpc_server.py CERT KEY`.

It says both ports in one line, and serves until its standard input ends. Methods go by their last word.
"""

import sys
from concurrent import futures

import grpc

TRAILING = (("trailing", "yes"), ("trailing-bin", b"\x00\xff"))


def echo(request, context):
    context.set_trailing_metadata(TRAILING)
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def add(requests, context):
    return b"+".join(requests)


def chat(requests, context):
    context.send_initial_metadata((("leading", "yes"),))
    for request in requests:
        yield b"got " + request
    context.set_trailing_metadata(TRAILING)


def fail(request, context):
    context.set_trailing_metadata(TRAILING)
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ä%")


def fail_late(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "in the middle")


def metadata(request, context):
    named = [f"{key}={value}" for key, value in context.invocation_metadata()]
    return "\n".join(named).encode()


def wait(request, context):
    """Until the client has gone, or its deadline passed."""
    gone = futures.Future()
    if not context.add_callback(lambda: gone.set_result(None)):
        return b"gone"
    gone.result()
    return b"late"


HANDLERS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Add": grpc.stream_unary_rpc_method_handler(add),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
}


class Methods(grpc.GenericRpcHandler):
    def service(self, call):
        return HANDLERS.get(call.method.rpartition("/")[2])


def main(cert, key):
    server = grpc.server(futures.ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers((Methods(),))
    plain = server.add_insecure_port("127.0.0.1:0")
    with open(key, "rb") as key, open(cert, "rb") as cert:
        credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
    tls = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(plain, tls, flush=True)
    sys.stdin.read()
    server.stop(None)


main(*sys.argv[1:])
