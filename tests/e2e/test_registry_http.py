"""Lists on HTTP servers: what is sent, and what is taken for news. What becomes of outages and of
answers that are not the truth is drilled in `tests/e2e/test_registry_drills.py`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.membership import Membership
from proxy.registry.followed import Timing
from proxy.registry.http.options import Options
from proxy.registry.http.provider import HttpProvider
from tests.support.processes import eventually
from tests.support.scripted_list import ScriptedList

TIMING = Timing(probe=0.02, backoff_limit=0.02)


@asynccontextmanager
async def watched(*servers: ScriptedList, **keys: Any) -> AsyncIterator[tuple[HttpProvider, Any]]:
    options = Options(endpoints=tuple(f"{one.url}/targets/?role=web" for one in servers), **keys)
    provider = HttpProvider(options, timing=TIMING, rng=random.Random(1))
    memberships: list[Membership] = []

    async def read() -> None:
        async for membership in provider.watch():
            memberships.append(membership)

    def ids() -> list[str]:
        services = memberships[-1].services if memberships else {}
        return [one.id for one in services.get("users", ())]

    task = asyncio.create_task(read())
    try:
        yield provider, ids
    finally:
        await provider.close()
        await task


def group(*targets: str) -> dict[str, Any]:
    return {"targets": list(targets), "labels": {"service": "users"}}


async def test_a_list_is_asked_for_at_its_path_and_not_sent_again_while_it_is_the_same() -> None:
    async with ScriptedList() as server:
        server.document = [group("10.0.0.1:80")]
        async with watched(server) as (provider, ids):
            await eventually(lambda: ids() == ["10.0.0.1:80"])
            await eventually(lambda: len(server.asked) > 3)
            server.document.append(group("10.0.0.2:80"))
            await eventually(lambda: ids() == ["10.0.0.1:80", "10.0.0.2:80"])
            assert set(server.asked) == {"/targets/?role=web"}
            assert await provider.alive()


async def test_a_token_is_read_again_when_it_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with ScriptedList("old") as server:
        server.document = [group("10.0.0.1:80")]
        async with watched(server, token_file=str(file)) as (provider, ids):
            await eventually(lambda: ids() == ["10.0.0.1:80"])
            server.token = "new"
            await eventually(lambda: "403" in str(provider.status().last_error))
            assert ids() == ["10.0.0.1:80"]
            (tmp_path / "next").write_text("new")
            (tmp_path / "next").rename(file)
            await eventually(lambda: provider.status().connected)


async def test_an_endpoint_that_fails_is_left_for_another_one() -> None:
    async with ScriptedList() as one, ScriptedList() as other:
        one.document = other.document = [group("10.0.0.1:80")]
        async with watched(one, other) as (provider, ids):
            await eventually(lambda: ids() == ["10.0.0.1:80"])
            first, rest = (one, other) if one.asked else (other, one)
            first.status = 500
            rest.document = [group("10.0.0.1:80", "10.0.0.2:80")]
            await eventually(lambda: ids() == ["10.0.0.1:80", "10.0.0.2:80"])
            assert str(provider.status().endpoint).startswith(rest.url)


@pytest.mark.parametrize("body", [b"<html>", b"7", b'{"users": 1}', b'["a:1"]', b"\xff"])
async def test_another_document_is_an_outage_that_quotes_it(body: bytes) -> None:
    async with ScriptedList() as server:
        server.lies = {"/": body}
        async with watched(server) as (provider, ids):
            await eventually(lambda: provider.status().last_error is not None)
            assert "not a list of instances" in str(provider.status().last_error)
            server.lies = {}
            server.document = [group("10.0.0.1:80")]
            await eventually(lambda: ids() == ["10.0.0.1:80"])


async def test_an_answer_packed_otherwise_than_it_says_is_an_outage() -> None:
    async with ScriptedList() as server:
        server.fields = {"Content-Encoding": "gzip"}
        async with watched(server) as (provider, ids):
            error = str(await eventually(lambda: provider.status().last_error))
            assert error == f"{server.url}/targets/?role=web: Can not decode content-encoding: gzip"
            server.fields = {}
            server.document = [group("10.0.0.1:80")]
            await eventually(lambda: ids() == ["10.0.0.1:80"])
