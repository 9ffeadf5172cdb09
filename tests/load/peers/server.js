// An echo server on ws that compresses every message it is asked to; no TLS on either port.
const http = require("http");
const { WebSocketServer } = require("ws");

for (const port of [@PLAIN@, @TLS@]) {
    const server = http.createServer((request, response) => response.end("Hello.\n"));
    const sockets = new WebSocketServer({ server, perMessageDeflate: { threshold: 0 } });
    sockets.on("connection", (socket) => {
        socket.on("message", (data, binary) => socket.send(data, { binary }));
    });
    server.listen(port, "127.0.0.1");
}
