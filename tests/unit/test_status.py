"""The admin API's documents."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from balancers.base import hash_key
from bench.inprocess import count_bytecodes
from proxy import listings
from proxy.control import status
from proxy.control.explain import explain
from proxy.control.part import Part
from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.control.statistics import NodeTotal, Reported, Retired, Totals
from proxy.engine.load import Board
from proxy.engine.resilience.limits import BucketTable
from proxy.engine.resilience.policies import Policies
from proxy.latency import seconds_of
from proxy.membership import Instance, Membership
from proxy.messages import OUTRUN, NodeStats, PolicyState, ServiceStats, WorkerStats
from proxy.settings.balancer import BalancerSpec
from proxy.settings.callers import Caller, CallersSettings
from proxy.settings.file import Settings
from proxy.settings.filters import FilterSpec
from proxy.settings.listener import ListenerSettings
from proxy.settings.listener_tls import ListenerTls
from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    BreakerSettings,
    PoolSettings,
    QueueSettings,
    RateLimitSettings,
    ServiceSettings,
)
from proxy.statuses import InvalidRecord, OddRecord, RegistryStatus, RetainedInstance


def instance(id_: str, service: str = "users", **fields: Any) -> Instance:
    given: dict[str, Any] = {"address": "10.0.0.1", "port": 80, **fields}
    return Instance(id=id_, service=service, **given)


REGISTRY = RegistryStatus(provider="etcd", connected=True)


def told(
    pools: PoolRegistry,
    settings: ServiceSettings,
    totals: Totals,
    *,
    inflight: int = 0,
    registry: RegistryStatus = REGISTRY,
    now: float = 0.0,
) -> dict[str, Any]:
    """What is told of `users`."""
    return status.service(
        pools.by_service["users"], settings, totals, lambda slot: inflight, now, registry
    )


QUIET = {"rate": 0.0, "error_rate": 0.0, "latency": {"p50": None, "p95": None, "p99": None}}


def book(**services: tuple[Instance, ...]) -> PoolRegistry:
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0)
    pools.apply(Membership(services=services), 0.0)
    return pools


def test_zones_of_a_service_are_told_as_far_as_they_are_names() -> None:
    written = ["b", "a", "b", "", "x" * 65, *(f"c{number:03}" for number in range(200))]
    members = [
        instance(f"i{number}", metadata={"zone": zone}) for number, zone in enumerate(written)
    ]
    pools = book(users=(*members, instance("without")))
    shown = status.zones(pools.by_service["users"])
    assert (shown[:3], len(shown)) == (["a", "b", "c000"], status.MAX_ZONES)


def test_instances_that_are_not_shown_cost_a_viewer_little() -> None:
    """A viewer asks once a second: of 2,000 instances each is counted, and 50 are told of."""
    few, many = (
        book(users=tuple(instance(f"i{number}") for number in range(count)))
        for count in (100, 2000)
    )
    settings, totals = ServiceSettings(), Totals(Retired())

    def cost(pools: PoolRegistry) -> int:
        pool, part = pools.by_service["users"], Part(end=50)
        return count_bytecodes(
            lambda: status.service(pool, settings, totals, lambda _: 0, 0.0, REGISTRY, part)
        )

    assert cost(many) - cost(few) < 100 * 1900


def test_a_service_lists_every_instance_with_status_and_reason() -> None:
    pools = book(
        users=(
            instance("a", version="1.2", metadata={"zone": "b"}, weight=2),
            instance("b", health="bad", health_message="no disk"),
        )
    )
    totals = Totals(
        Retired(
            nodes={
                ("users", "a@10.0.0.1:80"): NodeTotal(
                    9, {"ok": 7, "dns_failed": 2}, failure="dns_failed", failed_at=-2.5
                )
            }
        ),
        [Reported(nodes={("users", "b@10.0.0.1:80"): NodeStats("users", "b", 0, {}, True)})] * 2,
    )
    document = told(pools, ServiceSettings(), totals, inflight=4)
    assert document["instances"] == [
        {
            "id": "a",
            "address": "10.0.0.1",
            "port": 80,
            "weight": 2,
            "version": "1.2",
            "metadata": {"zone": "b"},
            "origin": "",
            "status": "ready",
            "reason": "",
            "back_in": None,
            "drained": False,
            "status_age": 0.0,
            "inflight": 4,
            "requests": 9,
            "failures": 2,
            "errors": {"dns_failed": 2},
            **QUIET,
            "last_failure": {"code": "dns_failed", "age": 2.5},
            "unreachable_from": 0,
            "on_probation_in": 0,
            "protocol": "h1",
            "effective_weight": 2,
            "held": False,
        },
        {
            "id": "b",
            "address": "10.0.0.1",
            "port": 80,
            "weight": 1,
            "version": "",
            "metadata": {},
            "origin": "",
            "status": "unhealthy",
            "reason": "'bad' in the registry: no disk",
            "back_in": None,
            "drained": False,
            "status_age": 0.0,
            "inflight": 4,
            "requests": 0,
            "failures": 0,
            "errors": {},
            **QUIET,
            "last_failure": None,
            "unreachable_from": 2,
            "on_probation_in": 0,
            "protocol": "h1",
            "effective_weight": 1,
            "held": False,
        },
    ]
    assert (document["total"], document["ready"], document["unhealthy"]) == (2, 1, 1)


def test_the_last_failure_is_that_of_the_worker_where_it_was_last() -> None:
    pools = book(users=(instance("a"),))
    key = "users", instance("a").key

    def worker(failure: str, at: float) -> Reported:
        return Reported(nodes={key: NodeStats(*key, 2, {"503": 1}, failure=failure, failed_at=at)})

    dead = Retired().plus(worker("closed_early", 1.0), {key})
    totals = Totals(dead, [worker("503", 5.0), worker("connect_refused", 3.0), worker("", 0.0)])
    (row,) = told(pools, ServiceSettings(), totals, now=10.0)["instances"]
    assert row["last_failure"] == {"code": "503", "age": 5.0}
    (row,) = told(pools, ServiceSettings(), Totals(dead), now=10.0)["instances"]
    assert row["last_failure"] == {"code": "closed_early", "age": 9.0}


def test_an_instance_that_left_is_shown_behind_the_others_while_it_is_busy() -> None:
    pools = PoolRegistry({}, Slots(100, lambda slot: slot != 1), 0.0)
    pools.apply(Membership(services={"users": (instance("a", weight=3), instance("b"))}), 0.0)
    pools.apply(Membership(services={"users": (instance("b"),)}), 2.0)
    left = pools.slots.left()

    def rows(part: Part | None = None) -> list[dict[str, Any]]:
        document = status.service(
            pools.by_service["users"], ServiceSettings(), Totals(Retired()),
            lambda slot: slot * 10, 5.0, REGISTRY, part, left,
        )  # fmt: skip
        assert document["total"] == 1
        assert document["matching"] == len(document["instances"])
        found: list[dict[str, Any]] = document["instances"]
        return found

    b, a = rows()
    assert (b["id"], b["status"]) == ("b", "ready")
    told = {name: a[name] for name in ("id", "status", "status_age", "inflight", "weight")}
    assert told == {"id": "a", "status": "left", "status_age": 3.0, "inflight": 10, "weight": 3}
    assert (a["effective_weight"], a["drained"]) == (0, False)
    assert [row["id"] for row in rows(Part(statuses=("left",)))] == ["a"]
    assert [row["id"] for row in rows(Part(statuses=("draining",)))] == []
    # The whole service went meanwhile.
    shown = status.known({}, Settings(), REGISTRY, left)
    assert status.service(
        shown["users"], ServiceSettings(), Totals(Retired()), lambda slot: 1, 5.0, REGISTRY,
        None, left,
    )["instances"][0]["status"] == "left"  # fmt: skip


def test_only_what_the_operator_drained_can_be_undrained() -> None:
    pools = book(users=(instance("a"), instance("b", health="draining"), instance("c", weight=0)))
    pools.drain("users", "a")
    pools.drain("users", "c", everywhere="proxy-1")
    pools.settle(0.0)
    rows = told(pools, ServiceSettings(), Totals(Retired()))["instances"]
    assert [(row["status"], row["drained"]) for row in rows] == [
        ("draining", True), ("draining", False), ("draining", False)
    ]  # fmt: skip


def test_a_service_and_its_instances_tell_how_it_went_of_late() -> None:
    workers = [Reported(), Reported()]
    for at, served in ((0.0, 0), (10.0, 40)):
        service = ServiceStats({"GET 200": served, "GET 503": served // 4}, [0] * 16, 0.0, {}, {})
        outcomes = {"ok": served - served // 4, "503": served // 8, OUTRUN: served // 8}
        took = {32: served // 2, 64: served // 2}
        node = NodeStats("users", "a@10.0.0.1:80", served, outcomes, latency=took)
        for worker in workers:
            worker.take(WorkerStats(0, 0, 0, {"users": service}, [node]), at)
    totals = Totals(Retired(), workers)
    document = told(book(users=(instance("a"), instance("b"))), ServiceSettings(), totals)
    times = [round(seconds_of(place), 6) for place in (32, 64, 64)]
    latency = dict(zip(("p50", "p95", "p99"), times, strict=True))
    late = {"rate": 10.0, "error_rate": 2.0, "latency": latency}
    assert {name: document[name] for name in late} == late
    a, b = document["instances"]
    assert {name: a[name] for name in late} == {**late, "rate": 8.0, "error_rate": 1.0}
    assert {name: b[name] for name in late} == QUIET
    assert a["errors"] == {"503": 10}


def test_a_service_tells_where_its_limits_stand() -> None:
    pools = book(users=(instance("a"),))
    workers = [Reported(), Reported(), Reported()]
    for worker, state in zip(workers, ("open", "closed", "closed"), strict=True):
        worker.states["users"] = PolicyState(state, 2)
        worker.services["users"] = ServiceStats(
            {}, [], 0.0, {}, {"reset": 1}, {"max_inflight": 5}, int(state == "open")
        )
    settings = ServiceSettings(circuit_breaker=BreakerSettings(), queue=QueueSettings(size=2))
    totals = Totals(Retired(), workers)
    document = told(pools, settings, totals)
    assert document["slow_start"] == 0
    assert document["limits"] == {
        "breaker": {"open": 1, "closed": 2},
        "breaker_opened": 1,
        "waiting": 6,
        "queue_full": 3,
        "refused": {"max_inflight": 15},
        "retries": {"reset": 3},
        "callers": {},
        "caller_seconds": {},
    }
    nothing = told(pools, ServiceSettings(), Totals(Retired()))
    assert nothing["limits"] == {
        "breaker": None,
        "breaker_opened": 0,
        "waiting": 0,
        "queue_full": 0,
        "refused": {},
        "retries": {},
        "callers": {},
        "caller_seconds": {},
    }


def test_services_are_listed_by_name_with_their_balancer() -> None:
    settings = Settings(services={"users": ServiceSettings(balancer=BalancerSpec(type="random"))})
    pools = book(users=(instance("a"),), orders=(instance("a", "orders"),))
    rows = status.services(pools.by_service, settings, Totals(Retired()), REGISTRY)["services"]
    assert [(row["name"], row["balancer"]) for row in rows] == [
        ("orders", "round_robin"),
        ("users", "random"),
    ]


def test_a_list_of_services_tells_what_stands_in_the_way_of_each() -> None:
    settings = Settings(
        services={
            "users": ServiceSettings(
                circuit_breaker=BreakerSettings(), queue=QueueSettings(size=3)
            ),
            "orders": ServiceSettings(),
        }
    )
    workers = [Reported(), Reported()]
    workers[0].states["users"] = PolicyState("open", 3)
    workers[1].states["users"] = PolicyState("trying", 2)
    for worker in workers:
        worker.services["users"] = ServiceStats(
            {"GET 200": 4, "GET 204": 1, "PUT 503": 1},
            *([], 1.0, {}, {}, {}, 0),
            callers={"web 200": 3},
            caller_seconds={"web": 0.25},
        )
    pools = book(users=(instance("a"),), orders=(instance("a", "orders"),))
    totals = Totals(Retired(), workers)
    orders, users = status.services(pools.by_service, settings, totals, REGISTRY)["services"]
    proven, rest = {"web 200": 6}, {" 200": 4, " 500": 2}  # Of two workers.
    called = {"callers": {**proven, **rest}, "caller_seconds": {"web": 0.5, "": 1.5}}
    tried = {"breaker": {"open": 1, "trying": 1}, "waiting": 5, "queue_full": 1}
    assert users["limits"] == {**tried, **called}
    called = {"callers": {}, "caller_seconds": {}}
    assert orders["limits"] == {"breaker": None, "waiting": 0, "queue_full": 0, **called}


def test_the_registry_names_its_endpoint_and_each_unreadable_key() -> None:
    known = RegistryStatus(
        provider="etcd",
        connected=True,
        endpoint="http://10.0.0.1:2379",
        revision=7,
        age=0.12345,
        invalid=(InvalidRecord(key="/services/users/x", reason="no address", kept=False),),
    )
    document = status.registry(known, complete=True)
    assert document["endpoint"] == "http://10.0.0.1:2379"
    assert document["age"] == 0.123
    assert document["complete"] is True
    assert msgspec.json.decode(msgspec.json.encode(document))["invalid"] == [
        {"key": "/services/users/x", "reason": "no address", "kept": False, "service": ""}
    ]


def test_records_that_are_refused_or_odd_stand_beside_their_service() -> None:
    pools = book(users=(instance("a"),))
    bad = InvalidRecord(key="/s/users/x", reason="no port", kept=False, service="users")
    other = InvalidRecord(key="/s/orders/x", reason="no port", kept=False, service="orders")
    odd = OddRecord(key="/s/users/a", reason="metadata 7 is ignored", service="users")
    registry = msgspec.structs.replace(REGISTRY, invalid=(bad, other), odd=(odd,))
    document = told(pools, ServiceSettings(), Totals(Retired()), registry=registry)
    assert document["refused"] == [{"key": "/s/users/x", "reason": "no port", "kept": False}]
    assert document["odd"] == [{"key": "/s/users/a", "reason": "metadata 7 is ignored"}]
    rows = status.services(pools.by_service, Settings(), Totals(Retired()), registry)["services"]
    assert [(row["name"], row["total"], len(row["refused"])) for row in rows] == [
        ("orders", 0, 1),
        ("users", 1, 1),
    ]


def test_a_held_instance_says_so() -> None:
    pools = book(users=(instance("a"), instance("b")))
    one = RetainedInstance(service="users", id="b", why="its lease ended", age=1.0)
    other = RetainedInstance(service="orders", id="a", why="its lease ended", age=1.0)
    registry = msgspec.structs.replace(REGISTRY, retained=(one, other))
    document = told(pools, ServiceSettings(), Totals(Retired()), registry=registry)
    assert [row["held"] for row in document["instances"]] == [False, True]


def test_a_service_of_the_configuration_is_known_before_anybody_registers() -> None:
    settings = Settings(
        services={"users": ServiceSettings()},
        routes=(RouteSpec(host="a.b", service="orders"), RouteSpec(path_prefix="/{service}")),
    )
    rows = status.services(book().by_service, settings, Totals(Retired()), REGISTRY)["services"]
    assert [(row["name"], row["ready"], row["total"]) for row in rows] == [
        ("orders", 0, 0),
        ("users", 0, 0),
    ]


def test_routes_say_what_the_file_says() -> None:
    document = status.routes([RouteSpec(host="a.b", service="users", strip_prefix=True)])
    assert document == {
        "routes": [{"index": 0, "host": "a.b", "service": "users", "strip_prefix": True}]
    }


class TestExplain:
    settings = Settings(
        routes=(
            RouteSpec(host="users.example.com", service="users"),
            RouteSpec(path_prefix="/old", methods=("POST",), service="users"),
            RouteSpec(path_prefix="/svc/{service}", strip_prefix=True),
        ),
        services={
            "users": ServiceSettings(
                balancer=BalancerSpec(type="consistent_hash", key="header:X-User"),
                circuit_breaker=BreakerSettings(),
                queue=QueueSettings(size=4),
            )
        },
    )

    def ask(
        self,
        url: str,
        *fields: tuple[str, str],
        method: str = "GET",
        pools: PoolRegistry | None = None,
        workers: tuple[Reported, ...] = (),
        board: Board | None = None,
        caller: str = "",
        share: float = 1.0,
        **changes: Any,
    ) -> dict[str, Any]:
        known = pools or book(users=(instance("a"), instance("b", weight=0)))
        totals = Totals(Retired(), workers)
        settings = msgspec.structs.replace(self.settings, **changes)
        services, complete = known.by_service, known.complete
        more: dict[str, Any] = {"caller": caller, "share": share}
        return explain(
            method, url, fields, services, settings, totals, complete, 5.0, board, **more
        )

    def test_the_way_of_a_request(self) -> None:
        document = self.ask("http://Users.Example.com:8080/x?y=1", ("X-User", "42"))
        assert document["request"]["host"] == "users.example.com"
        assert (document["route"], document["service"]) == (0, "users")
        assert document["path_for_instance"] == "/x?y=1"
        assert document["balancer"] == "consistent_hash"
        assert document["key"] == {"source": "header:X-User", "value": "42"}
        assert [row["id"] for row in document["candidates"]] == ["a"]
        assert [(row["id"], row["reason"]) for row in document["others"]] == [("b", "weight 0")]
        assert document["answer"] is None
        reasons = {row["index"]: row["reason"] for row in document["routes"]}
        assert reasons[0] == "taken"
        assert "/old" in reasons[1]

    def test_filters_are_named_in_the_order_in_which_they_are_asked(self) -> None:
        office, stamp = (FilterSpec(name=name, kind="allow") for name in ("office", "stamp"))
        document = self.ask(
            "http://users.example.com/",
            listeners=(ListenerSettings(filters=(stamp,)),),
            routes=(RouteSpec(service="users", filters=(office,)),),
        )
        assert document["filters"] == ["stamp", "office"]

    def test_callers_that_are_refused_are_told_by_which_rule(self) -> None:
        allow = (Caller(service="web", methods=("GET",)),)
        both = ListenerTls(certificates=(), client_ca="ca", trust_domain="mesh.local")

        def ask(
            caller: str, method: str = "GET", dry_run: bool = False, tls: ListenerTls | None = both
        ) -> tuple[dict[str, Any], int | None]:
            callers = CallersSettings(allow=allow, dry_run=dry_run)
            document = self.ask(
                "http://users.example.com/x",
                method=method,
                caller=caller,
                services={"users": ServiceSettings(callers=callers)},
                listeners=(ListenerSettings(tls=tls),),
            )
            answer = document["answer"]
            return document["callers"], None if answer is None else answer["status"]

        assert ask("Web") == ({"caller": "web", "dry_run": False, "refused": None}, None)
        for refused, said in (
            (ask("web", "POST"), "web is not allowed POST /x"),
            (ask("shop"), "shop is not among them"),
            (ask(""), "the client has not proved to be a service"),
            (ask("web", tls=None), "the client has not proved to be a service"),
        ):
            assert (refused[0]["refused"], refused[1]) == (f"callers of users: {said}", 403)
        told, status = ask("shop", dry_run=True)
        assert (told["refused"], status) == ("callers of users: shop is not among them", None)
        assert self.ask("http://users.example.com/x")["callers"] is None

    def test_a_request_without_the_key(self) -> None:
        assert self.ask("http://users.example.com/")["key"]["value"] is None

    def test_the_path_is_the_one_a_worker_sees(self) -> None:
        document = self.ask("/svc/nothing/../users/%61/b")
        assert document["request"]["path"] == "/svc/users/a/b"
        assert (document["service"], document["path_for_instance"]) == ("users", "/a/b")

    def test_a_path_that_can_be_read_in_two_ways(self) -> None:
        document = self.ask("//svc/users")
        assert document["answer"]["status"] == 400
        assert "/svc/users" in document["answer"]["detail"]
        assert self.ask("/svc/users/a%2Fb//c")["path_for_instance"] == "/a%2Fb//c"

    def test_a_name_in_another_case(self) -> None:
        document = self.ask("/svc/USERS/x")
        assert (document["answer"], document["service"]) == (None, "users")
        assert [row["id"] for row in document["candidates"]] == ["a"]

    def test_a_name_with_dots_in_a_host(self) -> None:
        routes = (RouteSpec(host="{service}.svc.local"),)
        document = self.ask(
            "http://a.b.svc.local/", pools=book(**{"a.b": (instance("z"),)}), routes=routes
        )
        assert (document["answer"], document["service"], document["route"]) == (None, "a.b", 0)
        assert [row["taken"] for row in document["routes"]] == [True]

    def test_a_path_that_goes_on_as_it_came(self) -> None:
        routes = (RouteSpec(service="users", forward_path="received"),)
        document = self.ask("/%41?x", routes=routes)
        assert (document["request"]["path"], document["path_for_instance"]) == ("/A", "/%41?x")
        assert self.ask("/a/../b", routes=routes)["answer"]["status"] == 400

    def test_the_listener_is_the_one_with_the_port(self) -> None:
        listeners = (
            ListenerSettings(bind="0.0.0.0:80"),
            ListenerSettings(
                name="strict", bind="[::]:81", merge_slashes=True, encoded_slashes="refuse",
                trusted_proxies=("10.0.0.0/8",),
            ),
        )  # fmt: skip
        found = {
            port: self.ask(f"http://h:{port}//svc/users", listeners=listeners)["answer"]
            for port in (80, 81)
        }
        assert found[80]["status"] == 400
        assert found[81] is None
        refused = self.ask("http://h:81/svc/users/a%2Fb", listeners=listeners)
        assert refused["answer"]["fault"] == "bad_request"
        hashing = ServiceSettings(balancer=BalancerSpec(type="consistent_hash", key="client_ip"))
        document = self.ask(
            "http://h:81/svc/users", ("X-Forwarded-For", "203.0.113.9, 10.0.0.1"),
            listeners=listeners, services={"users": hashing},
        )  # fmt: skip
        assert document["key"]["value"] == "203.0.113.9"

    def test_no_route(self) -> None:
        document = self.ask("http://other/old")
        assert document["answer"]["status"] == 404
        assert document["service"] is None
        assert {row["taken"] for row in document["routes"]} == {False}

    def test_a_template_for_a_service_nobody_knows(self) -> None:
        answer = self.ask("/svc/ghost")["answer"]
        assert (answer["status"], answer["error"]) == (404, "destination_not_found")

    def test_a_template_before_anybody_is_known(self) -> None:
        pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0)
        answer = self.ask("/svc/ghost", pools=pools)["answer"]
        assert (answer["status"], answer["error"]) == (503, "destination_unavailable")

    def test_a_service_without_a_usable_instance(self) -> None:
        pools = book(users=(instance("a", weight=0),))
        answer = self.ask("/old", method="POST", pools=pools)["answer"]
        assert (answer["status"], answer["error"]) == (503, "destination_unavailable")

    def test_a_service_of_the_file_that_nobody_registered(self) -> None:
        answer = self.ask("http://users.example.com/", pools=book())["answer"]
        assert (answer["status"], answer["error"]) == (503, "destination_unavailable")
        assert "users" in answer["detail"]

    def test_in_panic_the_unhealthy_are_candidates(self) -> None:
        pools = book(users=(instance("a", health="bad"), instance("b", health="draining")))
        document = self.ask("http://users.example.com/", pools=pools)
        assert document["panic"] is True
        assert [row["id"] for row in document["candidates"]] == ["a"]
        assert [row["id"] for row in document["others"]] == ["b"]

    def test_limits_in_the_way_of_a_request_are_told(self) -> None:
        worker = Reported()
        worker.states["users"] = PolicyState("open", 4)
        document = self.ask("http://users.example.com/", workers=(worker, Reported()))
        assert document["source"] == "registry"
        told = {"breaker": {"open": 1}, "waiting": 4, "queue_full": 1}
        unset = {"rate_limit": None, "max_inflight": None, "full": 0, "queue": 4}
        assert document["limits"] == {**told, **unset}
        assert document["answer"]["fault"] == "breaker_open"
        nobody = self.ask("http://users.example.com/", pools=book())
        assert nobody["source"] is None
        assert nobody["limits"] == {"breaker": {}, "waiting": 0, "queue_full": 0, **unset}

    def test_tokens_that_are_left_are_those_that_workers_take(self) -> None:
        rate = RateLimitSettings(requests=2, per=10.0, burst=3, key="header:X-User")
        services = {"users": ServiceSettings(rate_limit=rate)}
        board = Board.create(1)
        policies = Policies(hash_key(b"users"), services["users"], BucketTable(board.buckets))

        def ask(user: str) -> dict[str, Any]:
            return self.ask(
                "http://users.example.com/", ("X-User", user), services=services, board=board
            )

        for left in (3.0, 2.0, 1.0):
            document = ask("42")
            assert (document["limits"]["rate_limit"]["left"], document["answer"]) == (left, None)
            assert policies.admit(b"42", 5.0) is None
        document = ask("42")
        assert document["limits"]["rate_limit"] == {
            "key": "header:X-User", "value": "42", "burst": 3.0, "left": 0.0,
        }  # fmt: skip
        assert document["answer"]["fault"] == "rate_limited"
        assert ask("43")["limits"]["rate_limit"]["left"] == 3.0

    def test_tokens_of_a_limit_of_the_fleet_are_those_of_this_proxy_s_share(self) -> None:
        rate = RateLimitSettings(requests=6, per=60.0, burst=6, key="header:X-User", scope="fleet")
        services = {"users": ServiceSettings(rate_limit=rate)}
        board = Board.create(1)
        buckets = BucketTable(board.buckets)
        buckets.share = 1 / 3
        policies = Policies(hash_key(b"users"), services["users"], buckets)

        def ask() -> dict[str, Any]:
            return self.ask(
                "http://users.example.com/",
                ("X-User", "42"),
                services=services,
                board=board,
                share=1 / 3,
            )

        for left in (2.0, 1.0):
            document = ask()
            told = document["limits"]["rate_limit"]
            assert (told["burst"], told["left"], document["answer"]) == (2.0, left, None)
            assert policies.admit(b"42", 5.0) is None
        assert ask()["answer"]["fault"] == "rate_limited"
        assert policies.admit(b"42", 5.0) is not None

    def test_requests_without_the_key_are_named_as_those_that_share_a_bucket(self) -> None:
        rate = RateLimitSettings(requests=1, per=10.0, burst=1, key="header:X-User")
        services = {"users": ServiceSettings(rate_limit=rate)}
        board = Board.create(1)
        policies = Policies(hash_key(b"users"), services["users"], BucketTable(board.buckets))
        assert policies.admit(b"", 5.0) is None
        document = self.ask("http://users.example.com/", services=services, board=board)
        lines = [" ".join(line.split()) for line in listings.explained(document)]
        assert "rate_limit 0 of 1 for header:X-User (requests without it)" in lines
        detail = "no token is left for requests without header:X-User"
        assert lines[-1] == f"answer 429 rate_limited: {detail}"

    def test_a_limit_on_what_only_a_connection_has_is_named_without_its_state(self) -> None:
        services = {"users": ServiceSettings(rate_limit=RateLimitSettings(requests=2))}
        document = self.ask("http://users.example.com/", services=services, board=Board.create(1))
        told = document["limits"]["rate_limit"]
        assert (told["value"], told["left"]) == ("of the client that asks", None)
        assert document["answer"] is None

    def test_instances_that_are_full(self) -> None:
        board = Board.create(1)
        pools = book(users=(instance("a"),))
        (member,) = pools.by_service["users"].members
        board.row(0)[member.slot] = 2
        for size, fault in ((0, "queue_full"), (5, None)):
            services = {"users": ServiceSettings(max_inflight=2, queue=QueueSettings(size=size))}
            document = self.ask(
                "http://users.example.com/", services=services, board=board, pools=pools
            )
            assert document["candidates"][0]["inflight"] == 2
            assert (document["limits"]["full"], document["limits"]["queue"]) == (1, size)
            assert (document["answer"] or {}).get("fault") == fault

    def test_a_service_that_its_fallback_serves(self) -> None:
        fallback = {"users": PoolSettings(fallback=(instance("z"),))}
        pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0, settings=fallback)
        document = self.ask("http://users.example.com/", pools=pools)
        assert (document["source"], document["answer"]) == ("fallback", None)
        assert [row["id"] for row in document["candidates"]] == ["z"]

    def test_how_long_an_ejection_lasts(self) -> None:
        pools = book(users=(instance("a"), instance("b")))
        pools.eject("users", "a@10.0.0.1:80", "5 × first_byte_timeout", until=12.3)
        pools.settle(1.0)
        (row,) = self.ask("http://users.example.com/", pools=pools)["others"]
        assert (row["id"], row["status"], row["back_in"]) == ("a", "ejected", 7.3)
        assert row["reason"].startswith("5 × first_byte_timeout")

    def test_a_request_that_is_refused(self) -> None:
        document = self.ask("/svc/a%2Fb/x")
        assert document["answer"]["status"] in (400, 404)
        assert self.ask("/x%00")["answer"]["status"] == 400

    @pytest.mark.parametrize(
        ("url", "fields"),
        [("/a b", ()), ("/", (("X-A", "b\r\nHost: evil"),)), ("http://[::1/x", ())],
    )
    def test_a_question_that_is_no_single_request_is_an_error(
        self, url: str, fields: tuple[tuple[str, str], ...]
    ) -> None:
        with pytest.raises(ValueError, match=r"."):
            self.ask(url, *fields)
