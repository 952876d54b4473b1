"""What every balancer of the catalogue owes the engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any

import pytest

from balancers.base import NO_KEY, Balancer
from proxy.catalog import BALANCERS, load
from tests.support.balancer_nodes import Instance, Traffic, instances

Make = Any


def built(kind: type[Balancer], nodes: Sequence[Instance], seed: int = 1, **given: Any) -> Balancer:
    balancer = kind(nodes, Random(seed), **given)
    for node in nodes:
        node.shown_to(balancer)
    return balancer


@pytest.fixture(params=[*BALANCERS, "consistent_hash with a bound"])
def make(request: pytest.FixtureRequest) -> Make:
    name, _, bound = request.param.partition(" ")
    given = {"bounded_load": 1.25} if bound else {}

    def build(nodes: Sequence[Instance], seed: int = 1) -> Balancer:
        return built(load(BALANCERS, name), nodes, seed, **given)

    return build


def keys(count: int, seed: int = 7) -> list[int]:
    rng = Random(seed)
    return [NO_KEY, *(rng.getrandbits(64) for _ in range(count))]


def test_an_empty_pool_has_no_pick(make: Make) -> None:
    assert make([]).pick(1, ()) is None
    assert make([]).pick(NO_KEY, ()) is None


def test_a_pool_without_a_usable_node_has_no_pick(make: Make) -> None:
    nodes = [Instance("down", usable=False), Instance("drained", weight=0)]
    for key in keys(20):
        assert make(nodes).pick(key, ()) is None


def test_only_usable_nodes_with_weight_are_picked(make: Make) -> None:
    nodes = [Instance(f"n{n}", weight=n % 3, usable=n % 4 != 0) for n in range(12)]
    traffic = Traffic(make(nodes))
    picked = {traffic.begin() for _ in range(300)}
    assert picked == {node for node in nodes if node.pickable}


def test_the_only_usable_node_gets_everything(make: Make) -> None:
    nodes = instances([1, 1, 1])
    nodes[0].usable = nodes[2].usable = False
    balancer = make(nodes)
    assert {balancer.pick(key, ()) for key in keys(20)} == {nodes[1]}


@pytest.mark.parametrize("collection", [tuple, list, set, frozenset])
def test_tried_nodes_are_not_picked_and_all_others_come_up_once(
    make: Make, collection: type
) -> None:
    nodes = instances([1, 5, 1, 2, 0, 9, 1])
    nodes[2].usable = False
    balancer = make(nodes)
    for key in keys(10):
        tried: list[Any] = []
        while (node := balancer.pick(key, collection(tried))) is not None:
            assert node not in tried
            tried.append(node)
        assert set(tried) == {node for node in nodes if node.pickable}


def test_tried_nodes_that_are_not_in_the_pool_do_not_matter(make: Make) -> None:
    nodes = instances([1, 1])
    stranger = Instance("gone")
    assert make(nodes).pick(1, (stranger,)) in nodes


@pytest.mark.parametrize("weights", [[1, 1, 1], [5, 1, 1], [3, 2, 1, 0, 4]])
def test_shares_follow_the_weights(make: Make, weights: list[int]) -> None:
    shares = Traffic(make(instances(weights))).shares(7000)
    for number, weight in enumerate(weights):
        # Loose, for the arcs of a hash ring: with 160 points they differ by about 8 %.
        assert shares.get(f"n{number}", 0) == pytest.approx(weight / sum(weights), rel=0.3)


def test_shares_follow_the_weights_under_load_too(make: Make) -> None:
    traffic = Traffic(make(instances([4, 2, 2])))
    rng = Random(3)
    counts = dict.fromkeys(("n0", "n1", "n2"), 0)
    for turn in range(4000):
        counts[traffic.begin().id] += 1
        if turn >= 64:
            traffic.finish(rng.randrange(64))
    assert counts["n0"] / 4000 == pytest.approx(0.5, rel=0.25)


def test_the_same_seed_gives_the_same_picks(make: Make) -> None:
    def sequence(seed: int) -> list[str]:
        traffic = Traffic(make(instances([1, 2, 3, 4]), seed))
        return [traffic.begin().id for _ in range(50)]

    assert sequence(5) == sequence(5)


def test_an_heir_serves_its_own_pool_only(make: Make) -> None:
    nodes = instances([1, 2, 3, 4])
    old = make(nodes)
    for key in keys(20):
        old.pick(key, ())
    nodes[1].usable = False
    nodes[2].weight = 7
    pool = [nodes[3], nodes[1], Instance("new", 2), nodes[2]]
    heir = make(pool)
    heir.inherit(old)
    traffic = Traffic(heir)
    assert {traffic.begin().id for _ in range(300)} == {"n3", "new", "n2"}


def test_an_heir_follows_weights_that_changed_on_the_same_objects(make: Make) -> None:
    nodes = instances([9, 1])
    old = make(nodes)
    for key in keys(33):
        old.pick(key, ())
    nodes[0].weight, nodes[1].weight = 1, 9
    heir = make(nodes)
    heir.inherit(old)
    assert Traffic(heir).shares(3000)["n1"] == pytest.approx(0.9, rel=0.1)


def test_inheriting_from_an_empty_pool_and_to_one(make: Make) -> None:
    nodes = instances([1, 1])
    empty = make([])
    empty.pick(1, ())
    filled = make(nodes)
    filled.inherit(empty)
    assert filled.pick(1, ()) in nodes
    emptied = make([])
    emptied.inherit(filled)
    assert emptied.pick(1, ()) is None


def test_pool_changes_do_not_shift_load_to_anyone(make: Make) -> None:
    """A pool that is replaced by an equal one between all requests still shares fairly."""
    nodes = instances([1, 1, 2])
    balancer = make(nodes)
    rng = Random(11)
    counts = dict.fromkeys(nodes, 0)
    for turn in range(2000):
        heir = make(nodes, turn)
        heir.inherit(balancer)
        balancer = heir
        node = balancer.pick(rng.getrandbits(64), ())
        counts[node] += 1
    assert counts[nodes[2]] / 2000 == pytest.approx(0.5, rel=0.25)
    assert counts[nodes[0]] / 2000 == pytest.approx(0.25, rel=0.25)


def change(balancer: Balancer, make: Make, nodes: list[Instance], rng: Random) -> Balancer:
    """A balancer that knows of a random change of `nodes`, as the engine gets one."""
    number = rng.randrange(len(nodes))
    node, gone = nodes[number], []
    what = rng.choice(["usable", "usable", "weight", "joins", "leaves", "moves"])
    if what == "usable":
        node.usable = not node.usable
    elif what == "weight":
        node.weight = rng.choice([0, 1, 2, 3, 40])
    elif what == "joins":
        node = Instance(f"j{rng.getrandbits(32)}", rng.choice([1, 2]))
        nodes.append(node)
    else:
        gone = [nodes.pop(number)]
        nodes += [node := Instance(node.id, node.weight, port=node_port(node) + 1)]
        if what == "leaves":
            del nodes[-1]
    news = [node] if node in nodes else []
    for each in news:
        each.shown_to(balancer)
    if balancer.changed(news, gone):
        return balancer
    heir = make(nodes)
    heir.inherit(balancer)
    return heir


def node_port(node: Instance) -> int:
    return int(node.key.rpartition(":")[2])


@pytest.mark.parametrize("seed", range(5))
def test_changes_lead_where_building_anew_does(make: Make, seed: int) -> None:
    rng = Random(seed)
    nodes = instances(rng.choices([1, 2, 3], k=30))
    balancer = make(nodes)
    for _ in range(60):
        balancer = change(balancer, make, nodes, rng)
        traffic = Traffic(balancer, seed)
        for _ in range(rng.randrange(9)):
            assert traffic.begin().pickable
            traffic.finish()
        tried: list[Any] = []
        while (node := balancer.pick(rng.getrandbits(64), tried)) is not None:
            tried.append(node)
        assert set(tried) == {node for node in nodes if node.pickable}
    total = sum(node.weight for node in nodes if node.pickable)
    shares = Traffic(balancer, seed).shares(9000)
    for node in nodes:
        wanted = node.weight / total if node.pickable else 0
        assert shares.get(node.id, 0) == pytest.approx(wanted, rel=0.4, abs=0.01)


def test_a_ring_after_changes_is_the_one_that_is_built_anew() -> None:
    rng = Random(3)
    nodes = instances([1, 2, 3, 1, 1])
    kind = load(BALANCERS, "consistent_hash")

    def make(nodes: Sequence[Instance]) -> Balancer:
        return built(kind, nodes)

    balancer = make(nodes)
    for _ in range(80):
        balancer = change(balancer, make, nodes, rng) if nodes else make(instances([1]))
        anew = make(nodes)
        assert [balancer.pick(key, ()) for key in keys(99)[1:]] == [
            anew.pick(key, ()) for key in keys(99)[1:]
        ]
        if not nodes:
            break


class Touched(Instance):
    """Counts how often a balancer looks at any of its kind."""

    touches = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("key", "id", "weight", "usable", "load"):
            Touched.touches += 1
        return super().__getattribute__(name)


def touches(do: Callable[..., object], *arguments: object) -> int:
    Touched.touches = 0
    do(*arguments)
    return Touched.touches


@pytest.mark.parametrize("weights", [1, 50])
def test_picks_and_flaps_look_at_few_nodes(make: Make, weights: int) -> None:
    rng = Random(1)
    nodes = [Touched(f"n{number}", 1 + number % weights) for number in range(2000)]
    balancer = make(nodes)
    balancer.pick(1, ())
    for _ in range(50):
        tried = rng.sample(nodes, 2)
        key = rng.getrandbits(64)
        assert touches(balancer.pick, key, ()) < 50
        assert touches(balancer.pick, key, tried) < 50
        nodes[7].usable = not nodes[7].usable
        assert touches(balancer.changed, [nodes[7]], ()) < 50


def test_a_change_of_load_on_an_unknown_node_is_ignored(make: Make) -> None:
    nodes = instances([1, 1])
    balancer = make(nodes)
    balancer.load_changed(Instance("gone", load=5))
    assert balancer.pick(1, ()) in nodes


class AtPick(Balancer):
    """Two choices by load, as somebody might write it who has not read of `reads_load`."""

    def __init__(self, nodes: Sequence[Any], rng: Random) -> None:
        self.nodes, self.rng = nodes, rng

    def pick(self, key: int, tried: Collection[Any]) -> Any:
        return min(self.rng.choices(self.nodes, k=2), key=lambda node: node.load)


class AtStart(AtPick):
    def __init__(self, nodes: Sequence[Any], rng: Random) -> None:
        super().__init__(sorted(nodes, key=lambda node: node.load), rng)

    def pick(self, key: int, tried: Collection[Any]) -> Any:
        return self.nodes[0]


class AtNotice(AtStart):
    def __init__(self, nodes: Sequence[Any], rng: Random) -> None:
        self.nodes = nodes

    def load_changed(self, node: Any) -> None:
        self.nodes = sorted(self.nodes, key=lambda node: node.load)


@pytest.mark.parametrize("kind", [AtPick, AtStart, AtNotice])
def test_a_balancer_that_reads_load_has_to_say_so(kind: type[Balancer]) -> None:
    def serve(kind: type[Balancer]) -> None:
        Traffic(built(kind, instances([1, 1]))).begin()

    with pytest.raises(AssertionError, match=f"{kind.__name__} reads load, but reads_load is not"):
        serve(kind)
    serve(type(kind.__name__, (kind,), {"reads_load": True}))


def test_balancers_that_hear_of_load_are_found_out() -> None:
    assert [kind.follows_load for kind in (AtPick, AtStart, AtNotice)] == [False, False, True]
    assert type("Child", (AtNotice,), {}).follows_load


@pytest.mark.parametrize("name", BALANCERS)
def test_parameters_are_what_the_configuration_expects(name: str) -> None:
    kind = load(BALANCERS, name)
    parameters = list(inspect.signature(kind, eval_str=True).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == ["nodes", "rng"]
    for parameter in parameters[2:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation in (int, float)
        assert isinstance(parameter.default, int | float)
    assert set(kind.limits) <= {parameter.name for parameter in parameters[2:]}
    for name, (lowest, highest) in kind.limits.items():
        kind([], Random(1), **{name: lowest})
        kind([], Random(1), **{name: highest})
