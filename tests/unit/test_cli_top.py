"""`fairlead top`: what keys do, and what is on the screen."""

from __future__ import annotations

import curses
from typing import Any

import pytest

from proxy.cli_top import KEYS, View


def row(name: str, rate: float, p99: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ready": 1,
        "total": 1,
        "unhealthy": 0,
        "ejected": 0,
        "draining": 0,
        "balancer": "random",
        "source": "file",
        "rate": rate,
        "error_rate": 0.0,
        "latency": {"p50": p99, "p95": p99, "p99": p99},
        "refused": [],
        **more,
    }


DOCUMENT = {"services": [row("b", 1.0, 0.5), row("a", 3.0), row("c", 2.0, 0.1)]}


@pytest.mark.parametrize(
    ("keys", "names"),
    [("", "abc"), ("r", "cba"), ("s", "acb"), ("sr", "bca"), ("ssss", "bca"), ("sssssss", "abc")],
)
def test_rows_are_sorted_by_the_column_that_keys_choose(keys: str, names: str) -> None:
    view = View()
    for key in keys:
        assert view.key(ord(key), view.rows(DOCUMENT))
    assert "".join(one["name"] for one in view.rows(DOCUMENT)) == names


def test_a_selected_service_is_entered_and_left() -> None:
    view = View()
    rows = view.rows(DOCUMENT)
    for key in (curses.KEY_DOWN, curses.KEY_DOWN, curses.KEY_DOWN, curses.KEY_UP):
        view.key(key, rows)
    lines = view.lines(DOCUMENT, 0.0, 24)
    assert [line.split()[0] for line, selected in lines if selected] == ["b"]
    assert view.key(10, rows)
    assert view.service == "b"
    assert view.lines({"instances": []}, 0.0, 24)[1][0] == "no instances"
    assert view.key(27, [])
    assert view.service is None
    assert not view.key(ord("q"), rows)


def test_a_screen_shows_the_rows_around_the_selected_one() -> None:
    document = {"services": [row(f"s{number:03}", 0.0) for number in range(100)]}
    view = View(selected=50)
    lines = view.lines(document, 0.0, 14)
    assert len(lines) == 14
    assert lines[-1][0] == KEYS
    shown = [line.split()[0] for line, _ in lines[2:-2]]
    assert shown == [f"s{number:03}" for number in range(45, 55)]
