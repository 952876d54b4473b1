"""What the commands send to an admin server, and what they make of its answers."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ECONNREFUSED
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.admin_client import AdminClient, AdminError, segment
from proxy.cli import main


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

        do_POST = do_GET

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


def test_addresses_that_pages_give_to_commands_are_some() -> None:
    pages = [page.read_text("utf-8") for page in (Path(__file__).parents[2] / "docs").rglob("*.md")]
    asking = r"`fairlead (?!sidecar)[^`]*--admin ([\w./:]+)"
    given = [url for page in pages for url in re.findall(asking, page)]
    assert given
    for url in given:
        AdminClient(url)


@pytest.mark.parametrize("token", ["a\nb", "a b", "\u2603", "\udcff", "a\x00"])
def test_a_token_that_cannot_be_sent_is_told_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match=r"^the token holds characters that cannot be sent$"):
        AdminClient("http://a", token)


def test_a_token_from_a_file_has_a_line_end() -> None:
    with answering(200, b'{"a": 1}') as (url, got):
        assert AdminClient(url, "secret\n").get("/metrics", "a") == {"a": 1}
    assert got == [("/metrics", "Bearer secret")]


def test_arguments_that_are_no_utf_8_are_sent_as_they_are() -> None:
    with answering(200, b'{"a": 1}') as (url, got):
        AdminClient(url).get("/services/" + segment("a/\udcff"), "a", [("url", "/\udcff ?")])
    assert got == [("/services/a%2F%FF?url=%2F%FF+%3F", None)]


@pytest.mark.parametrize("status", [200, 401, 404])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"1", b"\xff"])
def test_a_server_that_answers_something_else_is_no_admin_server(status: int, body: bytes) -> None:
    with answering(status, body) as (url, _), pytest.raises(AdminError) as told:
        AdminClient(url).get("/", "a")
    assert str(told.value) == f"{url} is no admin server: status {status}, no JSON object"


@pytest.mark.parametrize("body", ['{"ok": true}', '{"instances": [1], "services": {"a": 1}}'])
@pytest.mark.parametrize(
    "asked",
    [
        *("services", "instances a", "top --once", "registry", "explain /", "fleet", "reload"),
        *("drain a/b", "undrain a/b", "weight a/b 3", "upgrade", "restart-workers", "events"),
    ],
)
def test_a_command_takes_no_answer_of_another_product_for_its_own(asked: str, body: str) -> None:
    with answering(200, body.encode()) as (url, _):
        result = CliRunner().invoke(main, [*asked.split(), "--admin", url])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {url} is no admin server: ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(("token", "another"), [("", ""), ("old", ", and not this one")])
@pytest.mark.parametrize("ask", [lambda it: it.get("/", "a"), lambda it: next(it.events("/"))])
def test_a_token_that_is_missing_or_wrong_is_told(
    token: str, another: str, ask: Callable[[AdminClient], object]
) -> None:
    with answering(401, b"{}") as (url, _), pytest.raises(AdminError) as told:
        ask(AdminClient(url, token))
    words = f"asks for a token{another} (--token or FAIRLEAD_ADMIN_TOKEN)"
    assert str(told.value) == f"{url} {words}"


def test_a_server_without_events_has_no_empty_list_of_them() -> None:
    with answering(200, b"{}") as (url, _), pytest.raises(AdminError) as told:
        next(AdminClient(url).events("/"))
    assert str(told.value) == f"{url} is no admin server: it tells no events"
    with pytest.raises(AdminError, match=f"^no answer .* {url}: {os.strerror(ECONNREFUSED)} "):
        next(AdminClient(url).events("/"))
