"""What a file says of services, on the way in and on the way out of a side-car."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from proxy.mesh.composition import IDLE, MeshOptions, checked, composed
from proxy.settings.callers import CallersSettings
from proxy.settings.file import Settings
from proxy.settings.fleet import SharedText
from proxy.settings.load import parse
from proxy.settings.registry import registry_options
from proxy.settings.service import PoolSettings

FILE = """
registry: {type: etcd, endpoints: ["http://127.0.0.1:1"], mass_loss_guard: {share: 0.25}}
defaults:
  zone: {prefer: a}
  retry: {max_retries: 2, on: ["503"]}
  circuit_breaker: {failure_ratio: 0.25}
  callers: {allow: [nobody]}
services:
  users:
    callers: {allow: [web]}
    rate_limit: {requests: 5}
    timeouts: {total: 3s}
    max_inflight: 7
  orders:
    zone: {prefer: b}
    retry: {max_retries: 1}
    ejection: {consecutive_failures: 3}
    keepalive: {idle: 9s, max_requests: 2}
    rate_limit: {requests: 5}
routes: [{path: /, respond: 204}]
"""
THEIRS = ("tls", "keepalive", "callers", "filters", "rate_limit")
"""Keys of others' settings that are not passed on as they are."""


@pytest.fixture
def read() -> Settings:
    return parse(FILE, "mesh.yaml", {})


@pytest.fixture
def made(read: Settings) -> Settings:
    return composed(read, MeshOptions(service="users", port=8080, identity=Path("/id")))


def test_another_registry_on_the_command_line_is_guarded_as_the_file_says(read: Settings) -> None:
    other = registry_options("etcd")(endpoints=("http://127.0.0.1:2",))  # type: ignore[call-arg]
    words = MeshOptions(service="users", port=8080, identity=Path("/id"), registry=other)
    made = composed(read, words).registry
    assert (made.options, made.mass_loss_guard) == (other, read.registry.mass_loss_guard)
    assert made.mass_loss_guard is not None


def outward(settings: Settings, name: str) -> PoolSettings:
    return settings.defaults if name == "defaults" else settings.services[name]


@pytest.mark.parametrize("name", ["defaults", "orders"])
def test_a_call_to_others_has_all_that_the_file_says_of_them(
    read: Settings, made: Settings, name: str
) -> None:
    said, has = outward(read, name), outward(made, name)
    assert (said.zone, said.circuit_breaker) != (None, None)
    for key in {field.name for field in msgspec.structs.fields(said)} - {*THEIRS}:
        assert getattr(has, key) == getattr(said, key), key


@pytest.mark.parametrize("name", ["defaults", "orders", "users"])
def test_a_call_to_others_is_mutual_tls_and_theirs_to_refuse(made: Settings, name: str) -> None:
    has = outward(made, name)
    assert (has.tls.mode, has.tls.cert, has.tls.trust_domain) == ("on", "/id/tls.crt", "mesh.local")
    assert (has.callers, has.filters, has.rate_limit) == (None, (), None)


def test_connections_to_others_are_kept_for_long_unless_the_file_says_otherwise(
    made: Settings,
) -> None:
    own = made.services["orders"].keepalive
    assert (made.defaults.keepalive.idle, own.idle, own.max_requests) == (IDLE, 9, 2)


def test_the_program_is_called_once_and_protected_as_the_file_says_of_its_service(
    read: Settings, made: Settings
) -> None:
    said, has = read.services["users"], made.services["users:inbound"]
    for key in ("callers", "rate_limit", "timeouts", "max_inflight"):
        assert getattr(has, key) == getattr(said, key), key
    assert (has.retry.max_retries, has.ejection.enabled, has.zone) == (0, False, None)
    assert has.tls.mode == "off"


def test_a_side_car_serves_nobody_before_its_shared_configuration_is_known() -> None:
    text = """
registry: {type: etcd, endpoints: ["http://127.0.0.1:1"]}
config: {source: etcd}
"""
    words = MeshOptions(service="users", port=8080, identity=Path("/id"))
    unknown = composed(parse(text, "mesh.yaml", {}), words)
    assert unknown.routes == ()
    assert unknown.services["users:inbound"].callers == CallersSettings()
    services = "services: {users: {callers: {allow: [web]}}}"
    shared = SharedText(f"routes: [{{service: x}}]\n{services}", "etcd:/key")
    known = composed(parse(text, "mesh.yaml", {}, shared), words)
    assert len(known.routes) == 2
    assert known.services["users:inbound"].callers is not None


@pytest.fixture
def words(tmp_path: Path) -> MeshOptions:
    for file in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / file).touch()
    return MeshOptions(service="users", port=8080, identity=tmp_path)


@pytest.mark.parametrize("to", ["Users", "a.b", "users:inbound"])
def test_a_service_that_no_host_can_name_is_not_one_to_reach(words: MeshOptions, to: str) -> None:
    asked = msgspec.structs.replace(words, to=("orders", to))
    with pytest.raises(ValueError, match=f"--to: {to} is the first label of no Host"):
        checked(asked)
    by_tcp = msgspec.structs.replace(asked, tcp=((to, "127.0.0.1:5432"),))
    assert checked(by_tcp).to == ("orders", to)


def test_callers_are_names_or_a_star(words: MeshOptions) -> None:
    assert checked(msgspec.structs.replace(words, callers=("web", "*"))).callers == ("web", "*")
    with pytest.raises(ValueError, match="--callers"):
        checked(msgspec.structs.replace(words, callers=("web;orders",)))


def test_a_trust_domain_is_without_case(words: MeshOptions) -> None:
    asked = msgspec.structs.replace(words, trust_domain="MESH.local")
    assert checked(asked).trust_domain == "mesh.local"
