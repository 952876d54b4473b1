"""What the commands send to an admin server, and what they make of its answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from proxy.admin_client import AdminClient, AdminError, segment


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """The URL of a server that answers one request, and the path and Authorization it got."""
    got: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        thread.join(10)


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "localhost:9900", "http://", "http:///x", "ftp://a", "unix:/x"),
        *("http://a b", "http://\u2603", "http://a/b c"),
    ],
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL like http"):
        AdminClient(url)


@pytest.mark.parametrize("token", ["a\nb", "a b", "\u2603", "\udcff", "a\x00"])
def test_a_token_that_cannot_be_sent_is_told_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match=r"^the token holds characters that cannot be sent$"):
        AdminClient("http://a", token)


def test_a_token_from_a_file_has_a_line_end() -> None:
    with answering(200, b"{}") as (url, got):
        assert AdminClient(url, "secret\n").get("/metrics", []) == {}
    assert got == [("/metrics", "Bearer secret")]


def test_arguments_that_are_no_utf_8_are_sent_as_they_are() -> None:
    with answering(200, b"{}") as (url, got):
        AdminClient(url).get("/services/" + segment("a/\udcff"), [("url", "/\udcff ?")])
    assert got == [("/services/a%2F%FF?url=%2F%FF+%3F", None)]


@pytest.mark.parametrize("status", [200, 401, 404])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"1", b"\xff"])
def test_a_server_that_answers_something_else_is_no_admin_server(status: int, body: bytes) -> None:
    with answering(status, body) as (url, _), pytest.raises(AdminError) as told:
        AdminClient(url).get("/", [])
    assert str(told.value) == f"{url} is no admin server: status {status}, no JSON object"
