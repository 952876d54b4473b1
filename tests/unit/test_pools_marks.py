"""Pools with what others found out: drains, checks, ejections, slow start, panic, fallback."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.control.ejections import PoolCounts
from proxy.control.judging import panics
from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.control.slow_start import SCALE
from proxy.membership import Instance, Membership
from proxy.messages import Status
from proxy.settings.balancer import BalancerSpec
from proxy.settings.service import PoolSettings


def instance(id_: str = "a", **fields: Any) -> Instance:
    given: dict[str, Any] = {"service": "s", "address": "10.0.0.1", "port": 80, **fields}
    return Instance(id=id_, **given)


def key(id_: str) -> str:
    return instance(id_).key


def membership(*ids: str | Instance) -> Membership:
    members = tuple(instance(one) if isinstance(one, str) else one for one in ids)
    return Membership(services={"s": members} if members else {})


def book(*ids: str | Instance, **settings: Any) -> PoolRegistry:
    pools = PoolRegistry(
        {}, Slots(100, lambda slot: True), 0.0, settings={"s": PoolSettings(**settings)}
    )
    pools.apply(membership(*ids), 0.0)
    return pools


def shown(pools: PoolRegistry) -> dict[str, tuple[Status, str]]:
    return {m.instance.id: (m.status, m.reason) for m in pools.by_service["s"].members}


def weights(pools: PoolRegistry) -> dict[str, int]:
    return {node.id: node.weight for node in pools.by_service["s"].snapshot.nodes}


class TestMarks:
    def test_each_mark_is_seen_after_settling_with_its_reason(self) -> None:
        pools = book("a", "b", "c", "d")
        pools.drain("s", "a")
        pools.check("s", key("b"), "HTTP 500")
        pools.eject("s", key("c"), "5 × connect_refused", 8.4)
        assert shown(pools)["a"] == ("ready", "")
        changes = pools.settle(1.0)
        assert changes.pools == ["s"]
        assert shown(pools) == {
            "a": ("draining", "drained by the operator"),
            "b": ("unhealthy", "fails its checks: HTTP 500"),
            "c": ("ejected", "5 × connect_refused"),
            "d": ("ready", ""),
        }
        told = [member.told(0.4) for member in pools.by_service["s"].members]
        assert told[2] == "5 × connect_refused, back in 8 s"
        assert told[1] == "fails its checks: HTTP 500"

    def test_each_mark_can_be_taken_back(self) -> None:
        pools = book("a", "b", "c")
        pools.drain("s", "a")
        pools.check("s", key("b"), "HTTP 500")
        pools.eject("s", key("c"), "reset", 8.0)
        pools.settle(1.0)
        pools.undrain("s", "a")
        pools.check("s", key("b"), None)
        pools.reinstate("s", key("c"))
        assert pools.settle(2.0).pools == ["s"]
        assert {status for status, _ in shown(pools).values()} == {"ready"}
        assert not pools.settle(3.0)

    def test_marks_survive_updates_of_the_registry(self) -> None:
        pools = book("a", "b", "c", "d")
        pools.drain("s", "a")
        pools.check("s", key("b"), "HTTP 500")
        pools.eject("s", key("c"), "reset", 8.0)
        pools.settle(1.0)
        pools.apply(membership(), 2.0)
        pools.apply(membership(*(instance(one, version="2") for one in "abcd")), 3.0)
        assert [status for status, _ in shown(pools).values()] == [
            *("draining", "unhealthy", "ejected", "ready")
        ]

    def test_a_weight_holds_until_the_instance_registers_anew(self) -> None:
        pools = book("a", "b")

        def weights() -> list[int]:
            return [node.weight for node in pools.by_service["s"].snapshot.nodes]

        for left in (membership(instance("a", version="2"), instance("b")), membership()):
            pools.weigh("s", instance("a"), 7)
            pools.weigh("s", instance("b"), 0)
            pools.settle(1.0)
            assert weights() == [7, 0]
            assert shown(pools)["b"] == ("draining", "weight 0")
            pools.apply(membership(instance("a"), instance("b")), 2.0)
            assert weights() == [7, 0]
            pools.apply(left, 3.0)
            pools.weigh("s", instance("b"), 1)
            pools.apply(membership(instance("a"), instance("b")), 4.0)
            pools.settle(4.0)
            assert weights() == [1, 1]
            assert not pools.settle(5.0)

    def test_a_drain_is_for_the_name_the_rest_for_the_endpoint(self) -> None:
        pools = book("a", "b", "c")
        pools.drain("s", "a")
        pools.check("s", key("b"), "HTTP 500")
        pools.eject("s", key("c"), "reset", 8.0)
        pools.settle(1.0)
        pools.apply(membership(*(instance(one, port=81) for one in "abc")), 2.0)
        assert [status for status, _ in shown(pools).values()] == ["draining", "ready", "ready"]

    def test_the_registry_and_the_checks_must_agree(self) -> None:
        pools = book(instance("a", health="bad"), "b")
        pools.check("s", key("a"), "HTTP 500")
        pools.settle(1.0)
        status, reason = shown(pools)["a"]
        assert status == "unhealthy"
        assert "'bad'" in reason
        pools.apply(membership("a", "b"), 2.0)
        status, reason = shown(pools)["a"]
        assert status == "unhealthy"
        assert "HTTP 500" in reason
        pools.check("s", key("a"), None)
        pools.settle(3.0)
        assert shown(pools)["a"] == ("ready", "")

    def test_marks_of_services_nobody_knows_do_no_harm(self) -> None:
        pools = book("a")
        pools.eject("other", "x", "reset", 8.0)
        assert not pools.settle(1.0)
        pools.reinstate("other", "x")
        assert not pools.settle(2.0)

    def test_counts_say_by_what_an_ejection_is_decided(self) -> None:
        pools = book("a", "b", instance("c", health="bad"), instance("d", health="draining"))
        assert pools.counts("s", [key("a"), key("c"), "nobody"]) == {
            key("a"): PoolCounts(total=3, ready=2, is_ready=True),
            key("c"): PoolCounts(total=3, ready=2, is_ready=False),
        }
        assert pools.counts("other", [key("a")]) == {}


@pytest.mark.parametrize(
    ("ready", "failing", "threshold", "expected"),
    [
        (1, 1, 0.5, False),
        (1, 2, 0.5, True),
        (4, 6, 0.5, True),
        (5, 5, 0.5, False),
        (7, 18, 0.28, False),
        (6, 19, 0.28, True),
        (0, 1, 0.0, True),
        (1, 99, 0.0, False),
        (9, 0, 1.0, False),
        (9, 1, 1.0, True),
        (0, 0, 1.0, False),
    ],
)
def test_panic_threshold(ready: int, failing: int, threshold: float, expected: bool) -> None:
    statuses: list[Status] = ["ready"] * ready + ["unhealthy"] * failing + ["draining"] * 5
    assert panics(statuses, threshold) is expected


def test_a_pool_panics_below_its_own_threshold() -> None:
    pools = book("a", "b", "c", panic_threshold=0.5)
    pools.check("s", key("a"), "dead")
    assert pools.settle(1.0).panic_began == []
    pools.eject("s", key("b"), "reset", 9.0)
    assert pools.settle(2.0).panic_began == ["s"]
    assert pools.by_service["s"].snapshot.panic
    pools.reinstate("s", key("b"))
    assert pools.settle(3.0).panic_ended == ["s"]


class TestSlowStart:
    def test_an_instance_that_is_there_at_the_start_is_not_new(self) -> None:
        pools = book("a", "b", slow_start=30.0)
        assert weights(pools) == {"a": 1, "b": 1}
        assert pools.next_step is None

    def test_a_newcomer_grows_in_steps_to_its_full_weight(self) -> None:
        pools = book("a", instance("b", weight=3), slow_start=30.0)
        pools.apply(membership("a", instance("b", weight=3), "c"), 100.0)
        assert weights(pools) == {"a": SCALE, "b": 3 * SCALE, "c": SCALE // 10}
        seen, steps = [weights(pools)["c"]], 0
        while (at := pools.next_step) is not None:
            steps += 1
            if pools.step(at):
                seen.append(weights(pools)["c"])
        assert at is None
        assert seen[-1] == 1
        assert seen[:-1] == sorted(set(seen[:-1]))
        assert seen[-2] == SCALE - 1
        assert steps <= SCALE + 1
        assert weights(pools) == {"a": 1, "b": 3, "c": 1}

    def test_in_the_middle_it_has_half(self) -> None:
        pools = book("a", slow_start=30.0)
        pools.apply(membership("a", "b"), 100.0)
        pools.step(115.0)
        assert weights(pools) == {"a": SCALE, "b": SCALE // 2}

    def test_weights_of_a_ring_stay_and_it_is_told_the_share(self) -> None:
        ring = BalancerSpec(type="consistent_hash")
        pools = book("a", instance("b", weight=3), slow_start=30.0, balancer=ring)
        pools.apply(membership("a", instance("b", weight=3), "c"), 100.0)
        assert weights(pools) == {"a": 1, "b": 3, "c": 1}
        pools.step(107.6)
        assert [node.share for node in pools.by_service["s"].snapshot.nodes] == [1.0, 1.0, 0.25]
        assert pools.by_service["s"].warming == 1
        pools.step(130.0)
        assert [node.share for node in pools.by_service["s"].snapshot.nodes] == [1.0] * 3

    def test_a_pool_that_is_new_as_a_whole_is_neutral(self) -> None:
        pools = book(slow_start=30.0)
        pools.apply(membership("a", "b"), 100.0)
        assert weights(pools) == {"a": 1, "b": 1}

    def test_an_instance_that_is_back_is_new_however_it_was_out(self) -> None:
        pools = book("a", "b", "c", "d", slow_start=30.0)
        pools.check("s", key("a"), "dead")
        pools.eject("s", key("b"), "reset", 9.0)
        pools.drain("s", "d")
        pools.settle(1.0)
        pools.check("s", key("a"), None)
        pools.reinstate("s", key("b"))
        pools.undrain("s", "d")
        pools.settle(10.0)
        tenth = SCALE // 10
        assert weights(pools) == {"a": tenth, "b": tenth, "c": SCALE, "d": tenth}

    def test_an_instance_that_is_ejected_half_way_begins_anew(self) -> None:
        pools = book("a", slow_start=30.0)
        pools.apply(membership("a", "b"), 100.0)
        pools.eject("s", key("b"), "reset", 125.0)
        pools.settle(115.0)
        assert not pools.by_service["s"].slow_start
        pools.reinstate("s", key("b"))
        pools.settle(125.0)
        assert weights(pools) == {"a": SCALE, "b": SCALE // 10}
        pools.step(140.0)
        assert weights(pools) == {"a": SCALE, "b": SCALE // 2}
        pools.step(155.0)
        assert weights(pools) == {"a": 1, "b": 1}

    def test_a_pool_that_is_back_as_a_whole_is_neutral(self) -> None:
        pools = book("a", "b", slow_start=30.0)
        for one in "ab":
            pools.check("s", key(one), "dead")
        pools.settle(1.0)
        for one in "ab":
            pools.check("s", key(one), None)
        pools.settle(10.0)
        assert weights(pools) == {"a": 1, "b": 1}

    def test_an_instance_that_leaves_half_way_leaves_no_trace(self) -> None:
        pools = book("a", slow_start=30.0)
        pools.apply(membership("a", "b"), 100.0)
        pools.apply(membership("a"), 105.0)
        assert weights(pools) == {"a": 1}
        assert pools.next_step is None

    def test_a_drained_weight_stays_0(self) -> None:
        pools = book("a", slow_start=30.0)
        pools.apply(membership("a", "b", instance("c", weight=0)), 100.0)
        assert weights(pools)["c"] == 0


class TestFallback:
    last_resort = (instance("z", address="10.0.0.9"),)

    def test_serves_until_the_registry_names_somebody(self) -> None:
        pools = PoolRegistry(
            {},
            Slots(100, lambda slot: True),
            0.0,
            settings={"s": PoolSettings(fallback=self.last_resort)},
        )
        assert shown(pools) == {"z": ("ready", "")}
        assert not pools.complete
        assert not pools.apply(membership(), 1.0)
        assert shown(pools) == {"z": ("ready", "")}
        pools.apply(membership("a"), 2.0)
        assert shown(pools) == {"a": ("ready", "")}
        assert not pools.by_service["s"].fallback

    def test_serves_when_the_last_one_left_and_is_never_forgotten(self) -> None:
        pools = book("a", fallback=self.last_resort)
        pools.apply(membership(), 1.0)
        assert shown(pools) == {"z": ("ready", "")}
        assert pools.by_service["s"].fallback
        assert not pools.expire(10_000.0)
        tally = pools.by_service["s"].tally
        assert (tally.registered, tally.deregistered) == (1, 1)

    def test_sick_instances_are_better_than_none_of_the_registry(self) -> None:
        pools = book(instance("a", health="bad"), fallback=self.last_resort)
        assert list(shown(pools)) == ["a"]
        assert pools.by_service["s"].snapshot.panic

    def fallback_only(self) -> PoolRegistry:
        return PoolRegistry(
            {},
            Slots(9, lambda slot: True),
            0.0,
            settings={"s": PoolSettings(fallback=self.last_resort)},
        )

    def test_each_begin_and_end_is_told_once(self) -> None:
        pools = book("a", fallback=self.last_resort)
        began = pools.apply(membership(), 1.0)
        assert (began.fallback_began, began.fallback_ended) == (["s"], [])
        again = pools.apply(membership(), 2.0)
        assert (again.fallback_began, again.fallback_ended) == ([], [])
        ended = pools.apply(membership("a"), 3.0)
        assert (ended.fallback_began, ended.fallback_ended) == ([], ["s"])
        other = pools.apply(membership("b"), 4.0)
        assert (other.fallback_began, other.fallback_ended) == ([], [])

    def test_a_fallback_that_ends_with_the_first_full_set_is_no_news(self) -> None:
        changes = self.fallback_only().apply(membership("a"), 1.0)
        assert (changes.fallback_began, changes.fallback_ended) == ([], [])

    @pytest.mark.parametrize("first", [Membership(services={}), Membership(services={"s": ()})])
    def test_a_fallback_lasting_beyond_the_first_full_set_is_told(self, first: Membership) -> None:
        pools = self.fallback_only()
        assert pools.apply(first, 1.0).fallback_began == ["s"]
        assert pools.apply(membership("a"), 2.0).fallback_ended == ["s"]

    def test_a_fallback_that_is_served_before_the_registry_answers_is_told(self) -> None:
        pools = self.fallback_only()
        began = pools.serve_unknown(5.0)
        assert began.fallback_began == ["s"]
        assert not began
        assert pools.apply(membership(), 6.0).fallback_began == []
        assert pools.apply(membership("a"), 7.0).fallback_ended == ["s"]

    def test_inherited_from_the_defaults(self) -> None:
        pools = PoolRegistry(
            {}, Slots(9, lambda slot: True), 0.0, defaults=PoolSettings(fallback=self.last_resort)
        )
        pools.apply(membership("a"), 0.0)
        pools.apply(membership(), 1.0)
        assert shown(pools) == {"z": ("ready", "")}
