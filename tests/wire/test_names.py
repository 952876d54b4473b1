"""Instances that are known by a name, and by several addresses."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from proxy.names.cache import BELIEVED, DENIED_PAUSE, PATIENCE, PAUSE
from proxy.names.eyeballs import DELAY
from proxy.settings.route import RouteSpec
from proxy.settings.service import Keepalive, RetrySettings, ServiceSettings, Timeouts
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.scenes import GET, REFUSED, answered

ONE_DIAL_EACH = ServiceSettings(keepalive=Keepalive(max_idle=0))
"""Each request connects anew."""


def named(make: Any, *names: str, settings: ServiceSettings = ONE_DIAL_EACH, **options: Any) -> Any:
    wire = make(settings=settings, **options)
    wire.serve_at(*names or ("web.test",))
    return wire, wire.client()


def served_at(wire: Wire, client: Peer, address: str) -> None:
    """One GET goes to `address`, whose connection is closed behind it."""
    client.send(GET)
    instance = wire.accepted_at(address)
    instance.expect(forwarded("GET /x"))
    answered(client, instance)
    assert instance.closed


class TestLookedUp:
    def test_an_address_is_never_asked_for(self, make: Any) -> None:
        wire, client = named(make, "10.0.0.9")
        served_at(wire, client, "10.0.0.9")
        wire.serve_at("::0:1", "2001:DB8::1")
        client.send(GET)
        assert wire.resolver.questions == []
        [(address, _)] = set(wire.network.dialled) - {("10.0.0.9", 80)}
        assert address in ("::1", "2001:db8::1")  # In canonical form.
        wire.accepted_at(address).take()
        client.eof()

    def test_requests_of_one_moment_ask_once(self, make: Any) -> None:
        wire, _ = named(make, "web.test")
        clients = [wire.client() for _ in range(20)]
        for client in clients:
            client.send(GET)
        assert wire.resolver.questions == ["web.test"]
        wire.resolver.says("web.test", "10.0.0.9")
        wire.settle()
        for _ in clients:
            instance = wire.accepted_at("10.0.0.9")
            instance.take()
            instance.send(OK)
        for client in clients:
            client.expect(OK_RELAYED)
        assert wire.resolver.questions == ["web.test"]

    def test_a_name_that_nobody_answers_for_holds_up_no_other(self, make: Any) -> None:
        wire = make(
            routes=(
                RouteSpec(path_prefix="/dead", service="dead"),
                RouteSpec(path_prefix="/", service="s"),
            ),
            services={"dead": ONE_DIAL_EACH, "s": ONE_DIAL_EACH},
        )
        wire.serve_at("dead.test", service="dead")
        wire.serve_at("web.test")
        wire.resolver.says("web.test", "10.0.0.9", ttl=1.0)
        waiting = [wire.client() for _ in range(50)]
        for client in waiting:
            client.send(request("GET /dead"))
        client = wire.client()
        for _ in range(20):
            served_at(wire, client, "10.0.0.9")
            wire.advance(0.1)
        wire.advance(1.0)
        for one in waiting:
            one.expect_problem(502, "dns_failed")
        wire.serve(service="dead")

    def test_requests_fail_within_the_limit_of_connecting(self, make: Any) -> None:
        settings = ServiceSettings(timeouts=Timeouts(connect=2.0))
        wire, client = named(make, settings=settings)
        client.send(GET)
        wire.advance(1.9)
        client.expect_nothing()
        wire.advance(0.2)
        client.expect_problem(502, "dns_failed")
        [node] = wire.pool.nodes.values()
        assert node.unreachable
        assert node.outcomes == {"dns_failed": 1}
        wire.resolver.fails("web.test")
        wire.settle()

    def test_an_instance_is_back_with_its_name_without_a_request(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.fails("web.test")
        client.send(GET)
        client.expect_problem(502, "dns_failed")
        [node] = wire.pool.nodes.values()
        wire.resolver.says("web.test", "10.0.0.9")
        wire.advance(PAUSE + 1.1)
        assert not node.unreachable
        wire.accepted_at("10.0.0.9")
        served_at(wire, client, "10.0.0.9")

    def test_another_instance_serves_while_one_has_no_address(self, make: Any) -> None:
        wire, client = named(make, "a.test", "b.test", settings=ServiceSettings())
        wire.resolver.denies("a.test")
        wire.resolver.says("b.test", "10.0.0.9")
        client.send(GET)
        instance = wire.accepted_at("10.0.0.9")
        for _ in range(5):
            instance.expect(forwarded("GET /x"))
            answered(client, instance)
            client.send(GET)
        instance.take()
        answered(client, instance)

    @pytest.mark.parametrize(
        "text",
        ["127.1", "0x7f000001", "2130706433", "127.0.0.1.", "010.0.0.1", "a b", "", "x" * 70],
    )
    def test_a_text_that_is_neither_name_nor_address_is_never_asked_for(
        self, make: Any, text: str
    ) -> None:
        wire, client = named(make, text, settings=ServiceSettings())
        client.send(GET)
        client.expect_problem(502, "dns_failed")
        assert wire.resolver.questions == []
        assert wire.network.dialled == []

    def test_names_leave_with_their_instances(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.fails("web.test")
        client.send(GET)
        client.expect_problem(502, "dns_failed")
        assert len(wire.worker.names) == 1
        wire.serve_at("10.0.0.1")
        wire.serve_at("10.0.0.1")  # Those that left are forgotten with the snapshot after.
        client.send(GET)  # So is the last request of the connection with the next one.
        wire.accepted_at("10.0.0.1").take()
        client.eof()
        assert len(wire.worker.names) == 0


class TestKept:
    def test_an_answer_is_kept_for_as_long_as_it_holds(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.says("web.test", "10.0.0.9", ttl=30.0)
        for _ in range(26):
            served_at(wire, client, "10.0.0.9")
            wire.advance(1.0)
        assert wire.resolver.questions == ["web.test"]

    def test_one_in_use_is_asked_for_again_before_it_ends(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.says("web.test", "10.0.0.9", ttl=30.0)
        served_at(wire, client, "10.0.0.9")
        wire.resolver.says("web.test", "10.0.0.8", ttl=30.0)
        wire.advance(28.0)
        assert wire.resolver.questions == ["web.test"] * 2
        served_at(wire, client, "10.0.0.8")

    def test_a_name_that_is_not_used_is_not_looked_up(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.says("web.test", "10.0.0.9", ttl=30.0)
        served_at(wire, client, "10.0.0.9")
        wire.advance(300.0)
        assert wire.resolver.questions == ["web.test"] * 2  # It was used in its first 30 s.
        wire.resolver.says("web.test", "10.0.0.8", ttl=30.0)
        served_at(wire, wire.client(), "10.0.0.8")

    def test_a_name_server_that_is_away_changes_nothing(self, make: Any) -> None:
        """Neither one that is silent nor one that fails, however long."""
        wire, client = named(make)
        wire.resolver.says("web.test", "10.0.0.9", ttl=5.0)
        served_at(wire, client, "10.0.0.9")
        wire.resolver.hangs("web.test")
        for _ in range(30):
            wire.advance(1.0)
            served_at(wire, client, "10.0.0.9")
        wire.resolver.fails("web.test")
        for _ in range(30):
            wire.advance(60.0)
            served_at(wire, client, "10.0.0.9")
        [node] = wire.pool.nodes.values()
        assert node.outcomes == {"ok": 61}
        assert wire.worker.names.failures
        assert wire.worker.names.outdated() > 1700.0
        wire.resolver.says("web.test", "10.0.0.8", ttl=5.0)
        wire.advance(1.0)
        served_at(wire, client, "10.0.0.9")  # This one makes it ask.
        served_at(wire, client, "10.0.0.8")
        assert wire.worker.names.outdated() == 0.0

    def test_a_request_after_a_pause_waits_a_moment_for_a_silent_server(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.says("web.test", "10.0.0.9", ttl=5.0)
        served_at(wire, client, "10.0.0.9")
        wire.advance(60.0)
        wire.resolver.hangs("web.test")
        client.send(GET)
        assert not wire.network.accepted.get(("10.0.0.9", 80))
        wire.advance(PATIENCE)
        instance = wire.accepted_at("10.0.0.9")
        instance.take()
        answered(client, instance)
        served_at(wire, client, "10.0.0.9")  # At once: the question has been open for long.
        wire.resolver.fails("web.test")
        wire.settle()

    def test_no_such_name_is_believed_when_it_is_said_again(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.says("web.test", "10.0.0.9", ttl=1.0)
        served_at(wire, client, "10.0.0.9")
        wire.resolver.denies("web.test")
        for _ in range(1 + BELIEVED):  # The first one begins the question that …
            served_at(wire, client, "10.0.0.9")
            wire.advance(DENIED_PAUSE)
        client.send(GET)
        client.expect_problem(502, "dns_failed")

    def test_no_such_name_is_not_asked_again_for_a_while(self, make: Any) -> None:
        wire, client = named(make)
        wire.resolver.denies("web.test")
        for _ in range(40):
            client.send(GET)
            client.expect_problem(502, "dns_failed")
            wire.advance(0.1)
        assert wire.resolver.questions == ["web.test"]


class TestSeveralAddresses:
    def make(self, make: Any, *addresses: str, **options: Any) -> Any:
        wire, client = named(make, "web.test", **options)
        wire.resolver.says("web.test", *addresses)
        return wire, client

    def test_families_take_turns_from_the_first_one(self, make: Any) -> None:
        addresses = ("2001:db8::1", "2001:db8::2", "2001:db8::3", "10.0.0.8", "10.0.0.9")
        wire, client = self.make(make, *addresses)
        for address in addresses:
            wire.network.refuse((address, 80), REFUSED)
        client.send(GET)
        client.expect_problem(502, "connect_refused")
        assert [address for address, _ in wire.network.dialled] == [
            "2001:db8::1", "10.0.0.8", "2001:db8::2", "10.0.0.9", "2001:db8::3",
        ]  # fmt: skip

    def test_a_refused_address_is_followed_by_the_next_at_once(self, make: Any) -> None:
        wire, client = self.make(make, "10.0.0.8", "10.0.0.9")
        wire.network.refuse(("10.0.0.8", 80), REFUSED)
        served_at(wire, client, "10.0.0.9")
        [node] = wire.pool.nodes.values()
        assert node.outcomes == {"ok": 1}
        assert node.picks == 1
        served_at(wire, client, "10.0.0.9")
        assert [address for address, _ in wire.network.dialled] == [
            "10.0.0.8", "10.0.0.9", "10.0.0.9",
        ]  # fmt: skip

    def test_a_silent_address_is_followed_after_a_quarter_of_a_second(self, make: Any) -> None:
        wire, client = self.make(make, "10.0.0.7", "10.0.0.8", "10.0.0.9")
        wire.network.hang(("10.0.0.7", 80))
        wire.network.hang(("10.0.0.8", 80))
        client.send(GET)
        wire.advance(DELAY - 0.01)
        assert len(wire.network.dialled) == 1
        wire.advance(0.02)
        assert len(wire.network.dialled) == 2
        assert wire.worker.services.connector.dialling == 2
        wire.advance(DELAY)
        instance = wire.accepted_at("10.0.0.9")
        assert wire.worker.services.connector.dialling == 0
        instance.expect(forwarded("GET /x"))
        answered(client, instance)
        wire.network.answer(("10.0.0.7", 80))
        wire.network.answer(("10.0.0.8", 80))
        wire.settle()
        assert not wire.network.accepted.get(("10.0.0.7", 80))
        assert wire.worker.services.connector.open == 0

    def test_the_first_one_wins_if_it_is_the_first_to_answer(self, make: Any) -> None:
        wire, client = self.make(make, "10.0.0.8", "10.0.0.9")
        wire.network.hang(("10.0.0.8", 80))
        wire.network.hang(("10.0.0.9", 80))
        client.send(GET)
        wire.advance(2 * DELAY)
        wire.network.answer(("10.0.0.8", 80))
        wire.settle()
        instance = wire.accepted_at("10.0.0.8")
        instance.take()
        answered(client, instance)

    def test_a_second_connection_of_the_same_moment_is_closed(self, make: Any) -> None:
        wire, client = self.make(make, "10.0.0.8", "10.0.0.9")
        wire.network.hang(("10.0.0.8", 80))
        wire.network.hang(("10.0.0.9", 80))
        client.send(GET)
        wire.advance(2 * DELAY)
        wire.network.answer(("10.0.0.8", 80))
        wire.network.answer(("10.0.0.9", 80))
        wire.settle()
        won, lost = (
            wire.accepted_at("10.0.0.8"),
            wire.accepted_at("10.0.0.9"),
        )
        if not lost.closed:
            won, lost = lost, won
        assert lost.closed
        lost.expect_nothing()
        won.expect(forwarded("GET /x"))
        assert wire.worker.services.connector.open == 1
        answered(client, won)

    def test_all_of_them_have_one_limit(self, make: Any) -> None:
        addresses = [f"10.0.1.{number}" for number in range(16)]
        settings = ServiceSettings(timeouts=Timeouts(connect=1.0))
        wire, client = self.make(make, *addresses, settings=settings)
        for address in addresses:
            wire.network.hang((address, 80))
        client.send(GET)
        wire.advance(0.99)
        client.expect_nothing()
        wire.advance(0.02)
        client.expect_problem(504, "connect_timeout")
        assert len(wire.network.dialled) == 4
        assert wire.worker.services.connector.dialling == 0

    def test_the_error_of_a_machine_without_ipv6_is_not_what_is_told(self, make: Any) -> None:
        wire, client = self.make(make, "2001:db8::1", "10.0.0.9")
        wire.network.refuse(("2001:db8::1", 80), OSError(errno.ENETUNREACH, "no way"))
        wire.network.refuse(("10.0.0.9", 80), REFUSED)
        client.send(GET)
        client.expect_problem(502, "connect_refused")

    def test_a_client_that_leaves_meanwhile_leaves_nothing(self, make: Any) -> None:
        wire, client = self.make(make, "10.0.0.8", "10.0.0.9")
        wire.network.hang(("10.0.0.8", 80))
        wire.network.hang(("10.0.0.9", 80))
        client.send(GET)
        wire.advance(DELAY * 1.5)
        client.reset()
        wire.network.answer(("10.0.0.9", 80))
        wire.settle()
        wire.accepted_at("10.0.0.9").expect_nothing()  # Kept for another request, or closed.


def test_no_local_port_is_not_held_against_the_instance(make: Any) -> None:
    wire = make("a", "b", settings=ServiceSettings(retry=RetrySettings(max_retries=1)))
    wire.network.refuse(wire.address("a"), OSError(errno.EADDRNOTAVAIL, "no port"))
    wire.network.refuse(wire.address("b"), OSError(errno.EADDRNOTAVAIL, "no port"))
    client = wire.client()
    client.send(GET)
    client.expect_problem(503, "no_port")
    assert not any(node.unreachable or node.failing for node in wire.pool.nodes.values())
    assert len(wire.network.dialled) == 2
