"""The contract of balancers: `BalancerContract`, and `FairBalancerContract` for those that share by
weight.

    class TestWarmest(FairBalancerContract):
        balancer = Warmest
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import pytest

from balancers.base import NO_KEY, Balancer
from proxy.testing.nodes import Instance, Traffic, instances

Make = Callable[..., Balancer]


def built(kind: type[Balancer], nodes: Sequence[Instance], seed: int = 1, **given: Any) -> Balancer:
    """A balancer over these nodes, which find out if it reads `load` without having said so."""
    balancer = kind(nodes, Random(seed), **given)
    for node in nodes:
        node.shown_to(balancer)
    return balancer


def keys(count: int, seed: int = 7) -> list[int]:
    """So many keys of requests, and that of one without."""
    rng = Random(seed)
    return [NO_KEY, *(rng.getrandbits(64) for _ in range(count))]


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
    """The port in the key of a node."""
    return int(node.key.rpartition(":")[2])


class BalancerContract:
    """Laws of every balancer."""

    balancer: ClassVar[type[Balancer]]
    """The one under test."""
    given: ClassVar[dict[str, Any]] = {}
    """Parameters that it is built with."""

    @pytest.fixture
    def make(self) -> Make:
        """Build it over nodes, with a seed."""

        def build(nodes: Sequence[Instance], seed: int = 1) -> Balancer:
            return built(self.balancer, nodes, seed, **self.given)

        return build

    def test_parameters_are_what_the_configuration_expects(self) -> None:
        kind = self.balancer
        parameters = list(inspect.signature(kind, eval_str=True).parameters.values())
        assert [parameter.name for parameter in parameters[:2]] == ["nodes", "rng"]
        for parameter in parameters[2:]:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert parameter.annotation in (int, float, str, bool)
            assert isinstance(parameter.default, parameter.annotation | int)
        assert set(kind.limits) <= {parameter.name for parameter in parameters[2:]}
        for name, (lowest, highest) in kind.limits.items():
            for value in (lowest, highest):
                given: dict[str, Any] = {name: value}
                built(kind, [], **given)

    def test_an_empty_pool_has_no_pick(self, make: Make) -> None:
        assert make([]).pick(1, ()) is None
        assert make([]).pick(NO_KEY, ()) is None

    def test_a_pool_without_a_usable_node_has_no_pick(self, make: Make) -> None:
        nodes = [Instance("down", usable=False), Instance("drained", weight=0)]
        for key in keys(20):
            assert make(nodes).pick(key, ()) is None

    def test_the_only_usable_node_gets_everything(self, make: Make) -> None:
        nodes = instances([1, 1, 1])
        nodes[0].usable = nodes[2].usable = False
        balancer = make(nodes)
        assert {balancer.pick(key, ()) for key in keys(20)} == {nodes[1]}

    @pytest.mark.parametrize("collection", [tuple, list, set, frozenset])
    def test_tried_nodes_are_not_picked_and_all_others_come_up_once(
        self, make: Make, collection: type
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

    def test_tried_nodes_that_are_not_in_the_pool_do_not_matter(self, make: Make) -> None:
        nodes = instances([1, 1])
        stranger = Instance("gone")
        assert make(nodes).pick(1, (stranger,)) in nodes

    def test_the_same_seed_gives_the_same_picks(self, make: Make) -> None:
        def sequence(seed: int) -> list[str]:
            traffic = Traffic(make(instances([1, 2, 3, 4]), seed))
            return [traffic.begin().id for _ in range(50)]

        assert sequence(5) == sequence(5)

    def test_inheriting_from_an_empty_pool_and_to_one(self, make: Make) -> None:
        nodes = instances([1, 1])
        empty = make([])
        empty.pick(1, ())
        filled = make(nodes)
        filled.inherit(empty)
        assert filled.pick(1, ()) in nodes
        emptied = make([])
        emptied.inherit(filled)
        assert emptied.pick(1, ()) is None

    def test_a_change_of_load_on_an_unknown_node_is_ignored(self, make: Make) -> None:
        nodes = instances([1, 1])
        balancer = make(nodes)
        balancer.load_changed(Instance("gone", load=5))
        assert balancer.pick(1, ()) in nodes


class FairBalancerContract(BalancerContract):
    """Laws of balancers that give every usable node its share by weight."""

    def test_only_usable_nodes_with_weight_are_picked(self, make: Make) -> None:
        nodes = [Instance(f"n{n}", weight=n % 3, usable=n % 4 != 0) for n in range(12)]
        traffic = Traffic(make(nodes))
        picked = {traffic.begin() for _ in range(300)}
        assert picked == {node for node in nodes if node.pickable}

    @pytest.mark.parametrize("weights", [[1, 1, 1], [5, 1, 1], [3, 2, 1, 0, 4]])
    def test_shares_follow_the_weights(self, make: Make, weights: list[int]) -> None:
        shares = Traffic(make(instances(weights))).shares(7000)
        for number, weight in enumerate(weights):
            # Loose, for the arcs of a hash ring: with 160 points they differ by about 8 %.
            assert shares.get(f"n{number}", 0) == pytest.approx(weight / sum(weights), rel=0.3)

    def test_shares_follow_the_weights_under_load_too(self, make: Make) -> None:
        traffic = Traffic(make(instances([4, 2, 2])))
        rng = Random(3)
        counts = dict.fromkeys(("n0", "n1", "n2"), 0)
        for turn in range(4000):
            counts[traffic.begin().id] += 1
            if turn >= 64:
                traffic.finish(rng.randrange(64))
        assert counts["n0"] / 4000 == pytest.approx(0.5, rel=0.25)

    def test_an_heir_serves_its_own_pool_only(self, make: Make) -> None:
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

    def test_an_heir_follows_weights_that_changed_on_the_same_objects(self, make: Make) -> None:
        nodes = instances([9, 1])
        old = make(nodes)
        for key in keys(33):
            old.pick(key, ())
        nodes[0].weight, nodes[1].weight = 1, 9
        heir = make(nodes)
        heir.inherit(old)
        assert Traffic(heir).shares(3000)["n1"] == pytest.approx(0.9, rel=0.1)

    def test_pool_changes_do_not_shift_load_to_anyone(self, make: Make) -> None:
        """A pool that is replaced by an equal one between all requests still shares fairly."""
        nodes = instances([1, 1, 2])
        balancer = make(nodes)
        rng = Random(11)
        counts: dict[Any, int] = dict.fromkeys(nodes, 0)
        for turn in range(2000):
            heir = make(nodes, turn)
            heir.inherit(balancer)
            balancer = heir
            node = balancer.pick(rng.getrandbits(64), ())
            counts[node] += 1
        assert counts[nodes[2]] / 2000 == pytest.approx(0.5, rel=0.25)
        assert counts[nodes[0]] / 2000 == pytest.approx(0.25, rel=0.25)

    @pytest.mark.parametrize("seed", range(5))
    def test_changes_lead_where_building_anew_does(self, make: Make, seed: int) -> None:
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
