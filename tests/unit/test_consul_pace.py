"""How soon lists of Consul are asked for again."""

from __future__ import annotations

import pytest

from proxy.registry.consul.pace import CREDIT, GAP, GAP_LIMIT, SHARE, Pace


def waits(work: float, apart: float, times: int) -> list[float]:
    """The gaps behind so many lists, each of which is asked for `apart` seconds after the gap."""
    now, found = 0.0, []
    pace = Pace(now)
    for _ in range(times):
        began = now + apart
        now = began + work
        found.append(pace.gap(began, now))
        now += found[-1]
    return found


def test_single_changes_of_a_large_service_never_wait() -> None:
    assert set(waits(work=0.04, apart=1.0, times=500)) == {GAP}


def test_an_agent_that_holds_no_request_is_asked_once_a_second() -> None:
    pace = Pace(0.0)
    assert pace.gap(0.0, 0.001, held=False) == GAP_LIMIT
    assert pace.gap(1.0, 1.001) == GAP


def test_a_flood_of_changes_costs_its_share_of_the_time() -> None:
    gaps = waits(work=0.04, apart=0.0, times=500)
    assert gaps[: int(CREDIT / 0.05)] == [GAP] * int(CREDIT / 0.05)
    assert CREDIT + SHARE * (500 * 0.04 + sum(gaps)) + 0.04 >= 500 * 0.04


@pytest.mark.parametrize("work", [0.0, 0.001, 0.5, 30.0])
def test_gaps_have_bounds(work: float) -> None:
    assert all(GAP <= gap <= GAP_LIMIT for gap in waits(work, 0.0, 100))
