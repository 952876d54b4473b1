"""The mass-loss guard on stepped time: what is retained, what is believed, and until when."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.membership import Departure, Instance, Membership
from proxy.registry.decorators.mass_loss import LATELY, MAX_FAILURES, PROBE_INTERVAL, MassLossPolicy
from proxy.settings.registry import MassLossSettings

SETTINGS = MassLossSettings(share=0.5, window=30.0, hold=600.0)


def instance(id_: str, service: str = "s", **fields: Any) -> Instance:
    given: dict[str, Any] = {"address": "10.0.0.1", "port": 80, **fields}
    return Instance(service=service, id=id_, **given)


class Registry:
    """Says what is registered, and remembers how the others went."""

    def __init__(self, ids: str) -> None:
        self.policy = MassLossPolicy(SETTINGS)
        self.members = {id_: instance(id_) for id_ in ids}
        self.say(0.0)

    def say(self, now: float, *departures: Departure) -> list[str]:
        """The ids that became suspicious."""
        members = tuple(self.members[id_] for id_ in sorted(self.members))
        membership = Membership(services={"s": members} if members else {}, departures=departures)
        return sorted(one.id for one in self.policy.update(membership, now))

    def lose(self, ids: str, now: float, *, lease: int = 7, health: str = "healthy") -> list[str]:
        for id_ in ids:
            del self.members[id_]
        return self.say(
            now,
            *(Departure(service="s", id=id_, lease=lease, health=health) for id_ in ids),
        )

    def served(self) -> str:
        return "".join(one.id for one in self.policy.membership().services.get("s", ()))

    def end(self, id_: str) -> Departure:
        return Departure(service="s", id=id_, lease=7)


def test_instances_of_a_mass_loss_are_retained_and_asked_about() -> None:
    registry = Registry("abcd")
    assert registry.lose("abcd", 100.0) == ["a", "b", "c", "d"]
    assert registry.served() == "abcd"
    assert sorted(one.id for one in registry.policy.uncertain()) == ["a", "b", "c", "d"]
    assert sorted(one.id for one in registry.policy.retained(101.0)) == ["a", "b", "c", "d"]
    assert registry.policy.retained(101.0)[0].age == 1.0
    assert registry.policy.total == 4


@pytest.mark.parametrize(
    ("ids", "lost", "retained"), [("abcd", "a", ""), ("ab", "a", "a"), ("a", "a", "")]
)
def test_a_loss_is_a_mass_loss_from_the_share_on_in_pools_of_two_or_more(
    ids: str, lost: str, retained: str
) -> None:
    registry = Registry(ids)
    assert registry.lose(lost, 1.0) == list(retained)


def test_a_departure_on_purpose_is_believed_at_once() -> None:
    assert Registry("abcd").lose("abcd", 1.0, lease=0) == []
    assert Registry("abcd").lose("abcd", 1.0, health="draining") == []
    assert Registry("abcd").lose("abcd", 1.0, health="unhealthy") == []
    without_a_word = Registry("abcd")
    without_a_word.members.clear()
    assert without_a_word.say(1.0) == []
    assert without_a_word.served() == ""


def test_keys_of_several_leases_that_go_together_were_deleted() -> None:
    def lose(**leases: tuple[int, int]) -> list[str]:
        registry = Registry("abcd")
        registry.members.clear()
        return registry.say(
            1.0,
            *(
                Departure(service="s", id=id_, lease=lease, revision=revision)
                for id_, (lease, revision) in leases.items()
            ),
        )

    assert lose(a=(1, 9), b=(2, 9), c=(3, 9), d=(4, 9)) == []
    assert lose(a=(1, 6), b=(2, 7), c=(3, 8), d=(4, 9)) == ["a", "b", "c", "d"]
    assert lose(a=(1, 9), b=(1, 9), c=(1, 9), d=(1, 9)) == ["a", "b", "c", "d"]
    # Found missing in a list: nobody knows when, so nobody knows whether together.
    assert lose(a=(1, 0), b=(2, 0), c=(3, 0), d=(4, 0)) == ["a", "b", "c", "d"]


def test_an_instance_whose_lease_lives_was_deleted_and_is_let_go() -> None:
    registry = Registry("abcd")
    registry.lose("abcd", 1.0)
    for id_ in "abcd":
        assert registry.policy.answered(registry.end(id_), False)
    assert registry.served() == ""
    assert registry.policy.next_at is None


def test_a_lease_that_ended_is_not_asked_about_again() -> None:
    registry = Registry("abcd")
    registry.lose("abcd", 1.0)
    assert not registry.policy.answered(registry.end("a"), True)
    assert not registry.policy.answered(registry.end("b"), None)
    assert sorted(one.id for one in registry.policy.uncertain()) == ["b", "c", "d"]
    assert registry.served() == "abcd"


def test_losses_within_the_window_add_up_and_earlier_ones_must_answer_first() -> None:
    registry = Registry("abcd")
    assert registry.lose("a", 0.0) == []
    assert registry.served() == "bcd"
    assert registry.lose("b", 29.0) == ["a", "b"]
    assert registry.served() == "bcd"
    [first] = [one for one in registry.policy.due(29.0) if one.id == "a"]
    assert registry.policy.probed(first, True)
    assert registry.served() == "abcd"


def test_a_single_instance_lost_after_most_of_the_pool_is_part_of_the_same_loss() -> None:
    registry = Registry("abcd")
    assert registry.lose("abc", 0.0) == ["a", "b", "c"]
    assert registry.lose("d", 1.0) == ["d"]
    assert registry.served() == "abcd"


def test_an_instance_that_was_let_go_counts_but_is_not_retained_again() -> None:
    registry = Registry("abcd")
    registry.lose("abc", 0.0)
    for now in range(MAX_FAILURES):
        for one in registry.policy.due(float(now)):
            registry.policy.probed(one, one.id != "a")
    assert registry.served() == "bcd"
    assert registry.lose("d", 3.0) == ["d"]
    assert registry.served() == "bcd"


def test_a_loss_that_turns_out_to_be_on_purpose_makes_nobody_suspicious() -> None:
    registry = Registry("abcdef")
    assert registry.lose("abc", 0.0) == ["a", "b", "c"]
    for id_ in "abc":
        registry.policy.answered(registry.end(id_), False)
    assert registry.lose("d", 1.0) == []
    assert registry.served() == "ef"


def test_an_instance_lost_earlier_that_does_not_answer_stays_away() -> None:
    registry = Registry("abcd")
    registry.lose("a", 0.0)
    registry.lose("b", 1.0)
    [first] = [one for one in registry.policy.due(1.0) if one.id == "a"]
    registry.policy.probed(first, False)
    assert registry.served() == "bcd"
    assert [one.id for one in registry.policy.uncertain()] == ["b"]


def test_losses_far_apart_do_not_add_up() -> None:
    registry = Registry("abcd")
    assert registry.lose("a", 0.0) == []
    assert registry.lose("b", 31.0) == []
    assert registry.served() == "cd"


def test_a_retained_instance_that_stops_answering_is_let_go() -> None:
    registry = Registry("ab")
    registry.lose("ab", 0.0)
    now = 0.0
    for failure in range(MAX_FAILURES):
        assert registry.served() == "ab", failure
        due = {one.id: one for one in registry.policy.due(now)}
        registry.policy.probed(due["a"], False)
        registry.policy.probed(due["b"], True)
        assert registry.policy.due(now + PROBE_INTERVAL / 2) == []
        now += PROBE_INTERVAL
    assert registry.served() == "b"


def test_an_instance_that_answers_requests_is_retained_although_probes_fail() -> None:
    registry = Registry("ab")
    registry.lose("ab", 0.0)
    now, answers = 0.0, 100
    for _ in range(10):
        for one in registry.policy.due(now):
            registry.policy.probed(one, False, answers if one.id == "a" else 0, now)
        answers += 1
        now += PROBE_INTERVAL
    assert registry.served() == "a"  # What it had answered before says nothing.
    last = now - PROBE_INTERVAL
    while registry.served():
        for one in registry.policy.due(now):
            registry.policy.probed(one, False, answers - 1, now)
        now += PROBE_INTERVAL
    assert now - last <= LATELY + (MAX_FAILURES + 1) * PROBE_INTERVAL


def test_instances_are_retained_no_longer_than_hold() -> None:
    registry = Registry("ab")
    registry.lose("ab", 0.0)
    assert registry.policy.step(599.9) == []
    assert sorted(registry.policy.step(600.0)) == [("s", "a"), ("s", "b")]
    assert registry.served() == ""


def test_another_policy_goes_on_with_the_losses_of_one_and_neither_moves_the_other() -> None:
    first, second = Registry("abcd"), Registry("")
    first.lose("ab", 100.0)
    second.policy = MassLossPolicy(SETTINGS)
    second.policy.adopt(first.policy)
    second.members = {"c": instance("c"), "d": instance("d")}
    second.say(101.0)
    assert second.served() == "abcd"
    assert second.policy.total == 2
    assert second.policy.probed(second.policy.due(101.0)[0], False) is False
    # The window goes on, too: what is lost now is lost together with those.
    assert second.lose("c", 110.0) == ["c"]
    first.members["a"] = instance("a")
    first.say(111.0)
    assert (first.served(), second.served()) == ("abcd", "abcd")
    assert [one.id for one in second.policy.retained(111.0)] == ["a", "b", "c"]
    assert second.policy.step(100.0 + SETTINGS.hold) == [("s", "a"), ("s", "b")]


def test_an_instance_that_registers_again_is_no_longer_retained() -> None:
    registry = Registry("ab")
    registry.lose("ab", 0.0)
    registry.members["a"] = instance("a", version="2")
    registry.say(1.0)
    assert registry.served() == "ab"
    assert [one.id for one in registry.policy.retained(1.0)] == ["b"]
    registry.lose("a", 40.0, lease=0)
    assert registry.served() == "b"


def test_other_services_keep_their_very_tuple() -> None:
    policy = MassLossPolicy(SETTINGS)
    others = (instance("x", "other"),)
    both = (instance("a"), instance("b"))
    policy.update(Membership(services={"s": both, "other": others}), 0.0)
    policy.membership()
    ends = tuple(Departure(service="s", id=id_, lease=7) for id_ in "ab")
    policy.update(Membership(services={"other": others}, departures=ends), 1.0)
    first = policy.membership()
    assert first.services["other"] is others
    assert first.services["s"] == both
    policy.update(Membership(services={"other": (*others, instance("y", "other"))}), 2.0)
    second = policy.membership()
    assert second.services["s"] is first.services["s"]
    assert policy.membership() is second
