"""The middle of the example: asks `users` through its side-car, with nothing but the standard
library."""

import http.client
import http.server
import signal
import sys
import threading

PORT, OUTBOUND = int(sys.argv[1]), int(sys.argv[2])


def call(service: str, path: str) -> tuple[int, str]:
    """Status and text of a call to another service."""
    connection = http.client.HTTPConnection("127.0.0.1", OUTBOUND, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": service})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Orders(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, text = call("users", "/users/1")
        content = f"an order of {text}".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Orders)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
