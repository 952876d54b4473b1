"""Which registry is used, and what is served over a switch, on stepped time."""

from __future__ import annotations

from typing import Any

from proxy.membership import Instance, Membership
from proxy.registry.decorators.failover import GRACE, RETURN_AFTER, FailoverPolicy, GracefulSwitch


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


def shown(switch: GracefulSwitch) -> dict[str, str]:
    served = switch.membership()
    assert served is not None
    return {service: "".join(one.id for one in ids) for service, ids in served.services.items()}


class TestFailoverPolicy:
    def check(self, policy: FailoverPolicy, *alive: bool) -> None:
        for index, ok in enumerate(alive):
            policy.checked(index, ok)

    def test_at_the_start_the_first_registry_that_lives_is_chosen(self) -> None:
        policy = FailoverPolicy(3)
        assert policy.choose(None) is None
        self.check(policy, False, True, True)
        assert policy.choose(None) == 1

    def test_while_no_registry_lives_nothing_changes(self) -> None:
        policy = FailoverPolicy(2)
        self.check(policy, False, False)
        assert policy.choose(None) is None
        assert policy.choose(1) == 1

    def test_one_failed_check_of_the_registry_in_use_is_enough_to_leave_it(self) -> None:
        policy = FailoverPolicy(3)
        self.check(policy, True, True, True)
        assert policy.choose(0) == 0
        self.check(policy, False, True, True)
        assert policy.choose(0) == 1
        self.check(policy, False, False, True)
        assert policy.choose(1) == 2

    def test_the_first_registry_is_chosen_again_once_it_has_proved_itself(self) -> None:
        policy = FailoverPolicy(2)
        self.check(policy, False, True)
        for _ in range(RETURN_AFTER - 1):
            self.check(policy, True, True)
            assert policy.choose(1) == 1
        self.check(policy, True, True)
        assert policy.choose(1) == 0

    def test_a_registry_that_goes_up_and_down_does_not_pull_us_along(self) -> None:
        policy = FailoverPolicy(2)
        for ok in [False, True] * 10:
            self.check(policy, ok, True)
            assert policy.choose(1) == 1

    def test_no_proof_is_asked_for_when_the_registry_in_use_is_down(self) -> None:
        policy = FailoverPolicy(2)
        self.check(policy, False, True)
        self.check(policy, True, False)
        assert policy.choose(1) == 0

    def test_a_registry_in_use_that_was_not_checked_yet_stays(self) -> None:
        policy = FailoverPolicy(2)
        policy.checked(1, True)
        assert policy.choose(0) == 0


class TestGracefulSwitch:
    def test_before_the_first_list_nothing_is_served(self) -> None:
        assert GracefulSwitch().membership() is None

    def test_without_a_switch_the_membership_is_that_of_the_registry(self) -> None:
        switch = GracefulSwitch()
        first = membership(s="ab")
        switch.update(first, 0.0)
        assert switch.membership() is first
        switch.update(membership(), 1.0)
        assert shown(switch) == {}

    def test_instances_that_the_new_registry_lacks_are_retained_for_a_while(self) -> None:
        switch = GracefulSwitch()
        switch.update(membership(s="abc"), 0.0)
        switch.begin(membership(s="ad"), 100.0)
        assert shown(switch) == {"s": "abcd"}
        assert switch.retained == 2
        assert switch.next_at == 100.0 + GRACE
        assert not switch.step(100.0 + GRACE - 0.1)
        assert switch.step(100.0 + GRACE)
        assert shown(switch) == {"s": "ad"}
        assert switch.next_at is None

    def test_an_instance_that_registers_there_is_no_longer_retained(self) -> None:
        switch = GracefulSwitch()
        switch.update(membership(s="ab"), 0.0)
        switch.begin(membership(s="a"), 1.0)
        switch.update(membership(s="ab"), 2.0)
        assert switch.retained == 0
        switch.update(membership(s="a"), 3.0)
        assert shown(switch) == {"s": "a"}

    def test_an_empty_registry_empties_nothing(self) -> None:
        switch = GracefulSwitch()
        switch.update(membership(s="ab", t="x"), 0.0)
        switch.begin(membership(t="y"), 1.0)
        switch.step(1.0 + GRACE)
        switch.step(1.0 + 100 * GRACE)
        assert shown(switch) == {"s": "ab", "t": "y"}
        switch.update(membership(s="c", t="y"), 1.0 + 101 * GRACE)
        assert shown(switch) == {"s": "c", "t": "y"}

    def test_switching_twice_loses_nobody_of_the_first(self) -> None:
        switch = GracefulSwitch()
        switch.update(membership(s="ab"), 0.0)
        switch.begin(membership(), 1.0)
        switch.begin(membership(s="ab"), 2.0)
        assert shown(switch) == {"s": "ab"}
        assert switch.retained == 0

    def test_services_of_which_nothing_changed_keep_their_tuple(self) -> None:
        switch = GracefulSwitch()
        switch.update(membership(s="ab"), 0.0)
        switch.begin(membership(s="b", t="x"), 1.0)
        first = switch.membership()
        assert first is switch.membership()
        assert first is not None
        switch.update(
            Membership(services={"s": first.services["s"][1:], "t": (instance("y", "t"),)}), 2.0
        )
        second = switch.membership()
        assert second is not None
        assert second.services["s"] is first.services["s"]
