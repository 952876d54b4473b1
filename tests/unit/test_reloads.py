"""Reloads: how many there are, and what becomes of one that goes wrong for a reason of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from proxy.control.reload import Reloads
from proxy.control.shared_config import SharedConfig
from proxy.settings.load import parse


async def test_an_error_inside_is_a_failed_reload_and_no_end_of_the_proxy(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    text = "registry: {type: static}\nroutes: [{path_prefix: /, service: a}]\n"
    file.write_text(text.replace("/,", "/x,"))

    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    supervisor: Any = SimpleNamespace(
        settings=parse(text, str(file), {}),
        shared=SharedConfig(),
        stopping=False,
        turn=asyncio.Lock(),
        sock=None,
        certificates=SimpleNamespace(successor=broken),
    )
    reloads = Reloads(file, {}, supervisor, supervisor, broken)  # type: ignore[arg-type]
    outcome = await reloads.reload()
    assert outcome.result == "failed"
    assert reloads.counts["failed"] == 1
    assert not reloads.succeeded
    assert (await reloads.reload(dry_run=True)).result == "changed"  # Nobody waits for the turn.


async def test_a_storm_of_signals_is_two_reloads_at_most(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    text = "registry: {type: static}\nroutes: [{path_prefix: /, service: a}]\n"
    file.write_text(text)
    settings = parse(text, str(file), {})
    supervisor: Any = SimpleNamespace(
        settings=settings, stopping=False, turn=asyncio.Lock(), shared=SharedConfig()
    )
    reloads = Reloads(file, {}, supervisor, supervisor, parse)  # type: ignore[arg-type]
    reloads.begin()
    await asyncio.sleep(0)
    assert supervisor.turn.locked()
    for _ in range(100):
        reloads.begin()
    await asyncio.gather(*reloads._begun)
    assert reloads.counts["unchanged"] == 2
    reloads.begin()
    await asyncio.gather(*reloads._begun)
    assert reloads.counts["unchanged"] == 3
