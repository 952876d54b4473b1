"""Which registry is used, and what is served over a switch, on stepped time."""

from __future__ import annotations

from typing import Any

from proxy.membership import Instance, Membership
from proxy.registry.succession import GRACE, RETURN_AFTER, Handover, Succession


def instance(id_: str, service: str = "s", **fields: Any) -> Instance:
    given: dict[str, Any] = {"address": "10.0.0.1", "port": 80, **fields}
    return Instance(service=service, id=id_, **given)


def membership(**services: str) -> Membership:
    return Membership(
        services={
            service: tuple(instance(id_, service) for id_ in ids)
            for service, ids in services.items()
        }
    )


def shown(handover: Handover) -> dict[str, str]:
    served = handover.membership()
    assert served is not None
    return {service: "".join(one.id for one in ids) for service, ids in served.services.items()}


class TestSuccession:
    def check(self, succession: Succession, *alive: bool) -> None:
        for index, ok in enumerate(alive):
            succession.checked(index, ok)

    def test_at_the_start_the_first_that_lives(self) -> None:
        succession = Succession(3)
        assert succession.choose(None) is None
        self.check(succession, False, True, True)
        assert succession.choose(None) == 1

    def test_nobody_lives_and_nothing_changes(self) -> None:
        succession = Succession(2)
        self.check(succession, False, False)
        assert succession.choose(None) is None
        assert succession.choose(1) == 1

    def test_one_failed_check_of_the_one_in_use_is_enough(self) -> None:
        succession = Succession(3)
        self.check(succession, True, True, True)
        assert succession.choose(0) == 0
        self.check(succession, False, True, True)
        assert succession.choose(0) == 1
        self.check(succession, False, False, True)
        assert succession.choose(1) == 2

    def test_back_to_the_first_once_it_has_proved_itself(self) -> None:
        succession = Succession(2)
        self.check(succession, False, True)
        for _ in range(RETURN_AFTER - 1):
            self.check(succession, True, True)
            assert succession.choose(1) == 1
        self.check(succession, True, True)
        assert succession.choose(1) == 0

    def test_one_that_goes_up_and_down_does_not_pull_us_along(self) -> None:
        succession = Succession(2)
        for ok in [False, True] * 10:
            self.check(succession, ok, True)
            assert succession.choose(1) == 1

    def test_no_proof_is_asked_when_the_one_in_use_is_down(self) -> None:
        succession = Succession(2)
        self.check(succession, False, True)
        self.check(succession, True, False)
        assert succession.choose(1) == 0

    def test_one_in_use_that_was_not_checked_yet_stays(self) -> None:
        succession = Succession(2)
        succession.checked(1, True)
        assert succession.choose(0) == 0


class TestHandover:
    def test_before_the_first_list_there_is_nothing(self) -> None:
        assert Handover().membership() is None

    def test_without_a_switch_it_says_what_the_registry_says(self) -> None:
        handover = Handover()
        first = membership(s="ab")
        handover.update(first, 0.0)
        assert handover.membership() is first
        handover.update(membership(), 1.0)
        assert shown(handover) == {}

    def test_whoever_the_new_registry_lacks_is_kept_for_a_while(self) -> None:
        handover = Handover()
        handover.update(membership(s="abc"), 0.0)
        handover.switch(membership(s="ad"), 100.0)
        assert shown(handover) == {"s": "abcd"}
        assert handover.kept == 2
        assert handover.next_at == 100.0 + GRACE
        assert not handover.step(100.0 + GRACE - 0.1)
        assert handover.step(100.0 + GRACE)
        assert shown(handover) == {"s": "ad"}
        assert handover.next_at is None

    def test_who_registers_there_is_kept_no_longer(self) -> None:
        handover = Handover()
        handover.update(membership(s="ab"), 0.0)
        handover.switch(membership(s="a"), 1.0)
        handover.update(membership(s="ab"), 2.0)
        assert handover.kept == 0
        handover.update(membership(s="a"), 3.0)
        assert shown(handover) == {"s": "a"}

    def test_an_empty_registry_empties_nothing(self) -> None:
        handover = Handover()
        handover.update(membership(s="ab", t="x"), 0.0)
        handover.switch(membership(t="y"), 1.0)
        handover.step(1.0 + GRACE)
        handover.step(1.0 + 100 * GRACE)
        assert shown(handover) == {"s": "ab", "t": "y"}
        handover.update(membership(s="c", t="y"), 1.0 + 101 * GRACE)
        assert shown(handover) == {"s": "c", "t": "y"}

    def test_switching_twice_loses_nobody_of_the_first(self) -> None:
        handover = Handover()
        handover.update(membership(s="ab"), 0.0)
        handover.switch(membership(), 1.0)
        handover.switch(membership(s="ab"), 2.0)
        assert shown(handover) == {"s": "ab"}
        assert handover.kept == 0

    def test_services_of_which_nothing_changed_keep_their_tuple(self) -> None:
        handover = Handover()
        handover.update(membership(s="ab"), 0.0)
        handover.switch(membership(s="b", t="x"), 1.0)
        first = handover.membership()
        assert first is handover.membership()
        assert first is not None
        handover.update(
            Membership(services={"s": first.services["s"][1:], "t": (instance("y", "t"),)}), 2.0
        )
        second = handover.membership()
        assert second is not None
        assert second.services["s"] is first.services["s"]
