"""Reloads: how many there are, and what becomes of one that goes wrong for a reason of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.control.reload import Reloads
from proxy.control.shared_config import SharedConfig
from proxy.settings.load import parse
from tests.support.processes import eventually


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


WATCHED = "watch: true\nregistry: {type: static}\nroutes: [{path_prefix: /, service: a}]\n"


@pytest.mark.parametrize(("by_then", "refused"), [(WATCHED, 0), ("nonsense: 1\n", 1)])
async def test_a_watched_file_that_changed_before_it_was_watched_is_read(
    by_then: str, refused: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(by_then)
    supervisor: Any = SimpleNamespace(
        settings=parse(WATCHED, str(file), {}),
        stopping=False,
        turn=asyncio.Lock(),
        shared=SharedConfig(),
    )
    reloads = Reloads(file, {}, supervisor, supervisor, parse)  # type: ignore[arg-type]
    looks = 0

    def look() -> dict[Path, tuple[int, int, int]]:
        nonlocal looks
        looks += 1
        return {}

    monkeypatch.setattr(reloads, "_stamps", look)
    watching = asyncio.ensure_future(reloads.watch(pause=0.0))
    await eventually(lambda: looks > 2, 10, "two looks beside the first")
    watching.cancel()
    assert reloads.counts == {**dict.fromkeys(reloads.counts, 0), "refused": refused}
