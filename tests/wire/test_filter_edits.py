"""Filters that only edit fields: they do as if they were asked, which they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.settings.filters import FilterSpec
from proxy.settings.route import RouteSpec
from tests.support.filters import spec
from tests.support.h2_peer import head
from tests.support.wire import request
from tests.wire.scenes import BAD, TRUSTING, answered, faulty
from tests.wire.test_access_log import Logged
from tests.wire.test_filter_kinds import BUSY, WEB, filtered
from tests.wire.test_grpc import GRPC, told
from tests.wire.test_http2 import begun

CHANGES = {"set": {"X-A": "new"}, "add": {"X-B": "2"}, "remove": ["X-Gone", "X-Real-IP"]}
ANSWER = b"HTTP/1.1 200 OK\r\nVary: X\r\nX-A: 1\r\nX-Gone: 1\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize("answer", [ANSWER, BUSY, BAD, b""])
@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Origin: https://app.example.com", "x-a: 1", "X.Gone: 2", "X-Real-IP: 10.0.0.1"),
        ("Origin: https://a.other", "Origin: https://b.other", "X-Forwarded-For: 10.1.2.3"),
    ],
)
@pytest.mark.parametrize(
    "filters",
    [
        [spec("headers", request=CHANGES, response=CHANGES)],
        [spec("headers", response={"remove": ["Vary"]}), spec("cors", **WEB)],
        [spec("cors", **WEB), spec("headers", request={"set": {"Origin": "https://x.example.org"}})],
        [spec("cors", origins=["*"], expose=["X-N"]), spec("headers", request=CHANGES)],
        [spec("allow", networks=["192.0.2.0/24"]), spec("headers", request={"remove": ["Origin"]})],
        [spec("deny", networks=["10.0.0.0/8"]), spec("cors", **WEB), spec("error_pages", file="")],
        [spec("maintenance", allow=["192.0.2.0/24"]), spec("error_pages", file="")],
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"listener": TRUSTING}])
def test_messages_are_the_same_as_with_a_filter_that_has_to_be_asked(
    make: Any,
    tmp_path: Path,
    filters: list[FilterSpec],
    fields: tuple[str, ...],
    answer: bytes,
    options: dict[str, Any],
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>sorry")
    for one in filters:
        if one.kind == "error_pages":
            one.settings["file"] = str(page)
    elsewhere = bool(options) and any("10.1.2.3" in field for field in fields)
    refused = elsewhere and any(one.kind in ("allow", "deny", "maintenance") for one in filters)
    seen = []
    for asked in ([], [spec("Scripted")]):
        wire = filtered(make, *filters, *asked, **options)
        client, instance = wire.client(), None
        heard: list[bytes] = []
        for _ in range(2 if answer in (ANSWER, BUSY) and not refused else 1):
            client.send(request("POST /x", *fields, "Content-Length: 2"), b"yo")
            if not refused:
                instance = instance or wire.connected()
                heard.append(instance.take())
                if answer:
                    instance.send(answer)
                else:
                    instance.eof()
            heard.append(client.take())
        assert all(heard)
        seen.append(heard)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("asked", [(), (spec("Scripted", "x"),)])
def test_decisions_of_filters_that_only_edit_are_logged(
    tmp_path: Path, asked: tuple[FilterSpec, ...]
) -> None:
    edits = (spec("allow", "office", networks=["0.0.0.0/0"]), spec("headers", "a", request=CHANGES))
    routes = (RouteSpec(path_prefix="/", service="s", filters=(*edits, *asked)),)
    logged = Logged(tmp_path, routes=routes, log={"fields": ("filters",)})
    client = logged.wire.client()
    client.send(request("GET /"))
    instance = logged.wire.accepted()
    assert instance.take()
    answered(client, instance)
    assert logged.line() == {"filters": "office:pass,a:pass" + ",x:pass" * len(asked)}


@pytest.mark.parametrize("asked", [(), (spec("Scripted"),)])
def test_a_limit_that_is_edited_counts(make: Any, asked: tuple[FilterSpec, ...]) -> None:
    edit = spec("headers", request={"set": {"grpc-timeout": "1S"}})
    routes = (RouteSpec(path_prefix="/", service="s", filters=(edit, *asked)),)
    wire, client = begun(make, routes=routes)
    client.send(head(1, GRPC, ("grpc-timeout", "9S"), method="POST"))
    assert wire.accepted().take()
    wire.advance(1.1)
    assert told(client)["grpc-status"] == "4"


@pytest.mark.parametrize("asked", [(), (spec("Scripted"),)])
def test_no_edit_is_made_of_the_answer_to_an_error_inside(
    make: Any, asked: tuple[FilterSpec, ...]
) -> None:
    wire = filtered(make, spec("headers", response={"set": {"X-B": "1"}}), *asked)
    faulty(wire, "pick")
    client = wire.client()
    client.send(request("GET /"))
    assert b"X-B: 1" not in client.expect_problem(500, "internal", closing=True)
