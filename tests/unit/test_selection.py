"""Which instance an attempt gets: the tables of `engine/selection.py`, row by row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from proxy.engine.load import Board
from proxy.engine.next_attempt import next_attempt
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.selection import first_choice, next_choice
from proxy.engine.worker import Worker
from proxy.messages import PoolNode, PoolSnapshot
from proxy.settings.choosing import ZoneSettings
from proxy.settings.service import QueueSettings, RetrySettings, ServiceSettings
from tests.support.loop_and_network import SteppedLoop

NOW = 100.0


class Scene:
    """A pool with `max_inflight: 1` whose nodes are named for what they are: `ok`, `full`,
    `probation`, `probed`, `gone` (unreachable), `far` (in another zone), and the same with a digit
    behind."""

    def __init__(self, board: Board, names: str) -> None:
        loop = SteppedLoop()
        worker = Worker(loop, 0, board, None, Random(5), loop.time)
        zone = ZoneSettings(prefer="here") if "far" in names else None
        limited = ServiceSettings(max_inflight=1, queue=QueueSettings(size=1), zone=zone)
        worker.pools.configure(limited, {})
        specs = tuple(
            PoolNode(
                name, name, "10.0.0.1", port, 1, "ready", port, nearby=not name.startswith("far")
            )
            for port, name in enumerate(names.split(), 1)
        )
        worker.pools.apply(PoolSnapshot("s", 1, specs))
        pool = worker.pools.get("s")
        assert pool is not None
        self.pool: Pool = pool
        for node in self.pool.nodes.values():
            self._make(node)

    def _make(self, node: Node) -> None:
        kind = node.id.rstrip("0123456789")
        if kind == "full":
            self.pool.take(node)
        elif kind in ("probation", "probed"):
            node.on_probation = True
            self.pool.on_probation.add(node)
            if kind == "probed":
                assert self.pool.begin_probe(node, NOW)
        elif kind == "gone":
            node.unreachable = True
            self.pool.reach_changed(node)
        node.reassess()

    def first(self) -> set[str]:
        """Who a first attempt may get, over many picks; `queue` for none."""
        found = set()
        for _ in range(40):
            picked = self.pool.pick(0, ())
            assert picked is not None
            node = first_choice(self.pool, picked, 0, NOW)
            found.add("queue" if node is None else node.id)
        return found

    def further(self, tried: str, stale: str = "", answered: bool = False) -> set[str]:
        """Who a further attempt may get after these; `none` for nobody."""
        nodes = tuple(self.pool.nodes[name] for name in tried.split())
        found = set()
        for _ in range(40):
            of = self.pool.nodes.get(stale)
            node = next_choice(self.pool, 0, nodes, NOW, stale=of, answered=answered)
            found.add("none" if node is None else node.id)
        return found


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(1)
    yield board
    os.close(board.fd)


@pytest.mark.parametrize(
    ("names", "who"),
    [
        ("ok ok2 full probed gone", "ok ok2"),
        ("ok probation full gone", "ok probation"),
        ("full full2", "queue"),
        ("full probed gone", "queue"),
        ("full gone gone2", "queue"),
        ("probed gone", "probed"),
        ("probed probed2", "probed probed2"),
        ("gone gone2", "gone gone2"),
    ],
)
def test_a_first_attempt_goes_to_the_first_tier_with_anybody(
    board: Board, names: str, who: str
) -> None:
    assert Scene(board, names).first() == set(who.split())


@pytest.mark.parametrize(
    ("names", "tried", "stale", "who"),
    [
        ("ok ok2 ok3 full probation gone", "ok", "", "ok2 ok3"),
        ("ok probation gone", "ok", "", "probation"),
        ("ok probed full", "ok", "", "probed"),
        ("ok full", "ok", "", "none"),
        ("ok full", "ok", "ok", "ok"),
        ("ok gone", "ok", "ok", "ok"),
        ("ok ok2 gone", "ok ok2", "ok", "ok"),
        ("ok ok2", "ok ok2", "", "none"),
        ("ok gone", "ok", "", "gone"),
        ("ok", "ok", "", "none"),
    ],
)
def test_a_further_attempt_goes_to_the_first_tier_with_anybody(
    board: Board, names: str, tried: str, stale: str, who: str
) -> None:
    assert Scene(board, names).further(tried, stale) == set(who.split())


def test_with_an_answer_in_hand_nobody_unreachable_is_asked(board: Board) -> None:
    scene = Scene(board, "ok gone gone2")
    assert scene.further("ok", answered=True) == {"none"}
    assert scene.further("ok") == {"gone", "gone2"}


@pytest.mark.parametrize("answered", [False, True])
def test_a_further_attempt_leaves_the_zone_where_nobody_is_left_in_it(
    board: Board, answered: bool
) -> None:
    scene = Scene(board, "ok ok2 far far2 gone")
    assert scene.first() == {"ok", "ok2"}
    assert scene.further("ok", answered=answered) == {"ok2"}
    assert scene.further("ok ok2", answered=answered) == {"far", "far2"}


@pytest.mark.parametrize(
    ("attempts", "stale_node", "stale", "budget", "node"),
    [
        (1, None, False, True, "ok"),
        (2, None, False, True, None),  # retry.max_retries is 1.
        (2, "other", False, True, "ok"),  # The attempt on a stale connection is not counted …
        (3, "other", False, True, None),
        (1, None, False, False, None),  # The budget is spent.
        (1, "tried", True, False, "ok"),  # … and the one behind it is not paid for.
    ],
)
def test_a_further_attempt_needs_a_try_and_budget(
    board: Board,
    attempts: int,
    stale_node: str | None,
    stale: bool,
    budget: bool,
    node: str | None,
) -> None:
    scene = Scene(board, "ok tried other")
    pool, nodes = scene.pool, scene.pool.nodes
    while not budget and pool.policies.budget.spend(pool.requests):
        pass
    found = next_attempt(
        pool, 0, (nodes["other"], nodes["tried"]), attempts, NOW,
        stale_node=None if stale_node is None else nodes[stale_node], stale=stale, answered=False,
        limit=pool.terms.max_retries,
    )  # fmt: skip
    assert (None if found is None else found.id) == node
    assert pool.counters.limited == ({} if budget or stale else {"retry.budget": 1})


def test_no_further_attempt_where_retries_are_off(board: Board) -> None:
    scene = Scene(board, "ok tried")
    scene.pool.configure(ServiceSettings(retry=RetrySettings(max_retries=0)))
    tried = (scene.pool.nodes["tried"],)
    assert (
        next_attempt(
            scene.pool, 0, tried, 1, NOW, stale_node=None, stale=False, answered=False, limit=0
        )
        is None
    )
