"""Good files and the settings they become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from balancers.base import Balancer
from proxy import catalog, cpus
from proxy.catalog import CHECKS
from proxy.membership import Instance
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.settings.access_log import AccessLogSettings
from proxy.settings.balancer import BalancerSpec
from proxy.settings.complaints import ConfigError
from proxy.settings.declare import keys_of
from proxy.settings.file import Settings
from proxy.settings.health_check import _KEYS_OF_CHECKS, HealthCheckSettings
from proxy.settings.listener import (
    ClientIpSettings,
    ListenerLimits,
    ListenerSettings,
    ListenerTimeouts,
)
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.load import load, parse, with_secrets_anew
from proxy.settings.process import (
    AdminSettings,
    AdminTls,
    LogSettings,
    ShutdownSettings,
)
from proxy.settings.registry import MassLossSettings, Registry, RegistryChoice, RegistryTls
from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    EjectionSettings,
    Keepalive,
    PoolSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)

ROUTE = "routes: [{service: a}]\n"


def settings(text: str, **environ: str) -> Settings:
    return parse(text, "proxy.yaml", environ)


def service(text: str) -> ServiceSettings:
    """The settings of service `a`."""
    return settings(text + ROUTE).services["a"]


def test_prefixes_of_callers_are_as_requests_have_them() -> None:
    text = "services: {a: {callers: {allow: [{service: b, path_prefixes: [/%7e%c3%a4]}]}}}\n"
    callers = service("listeners: [{name: l, bind: '127.0.0.1:80'}]\n" + text).callers
    assert callers is not None
    assert callers.allow[0].path_prefixes == ("/~%C3%A4",)


def test_an_access_log_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    text = "access_log: {path: a.log, format: combined, sample: 0.1, query: false}\n" + ROUTE
    built = parse(text, str(file), {})
    assert built.access_log == AccessLogSettings(
        path=str(tmp_path / "a.log"), format="combined", sample=0.1, query=False
    )
    assert settings("access_log: {}\n" + ROUTE).access_log == AccessLogSettings(path="-")
    assert settings("access_log: off\n" + ROUTE).access_log is None


def test_the_minimal_file() -> None:
    text = """
registry: {type: etcd, endpoints: ["http://127.0.0.1:2379"]}
routes:
  - {path_prefix: "/{service}", strip_prefix: true}
"""
    assert settings(text) == Settings(
        workers=cpus.usable(),
        registry=Registry(type="etcd", options=EtcdOptions(endpoints=("http://127.0.0.1:2379",))),
        routes=(RouteSpec(path_prefix="/{service}", strip_prefix=True),),
    )


def test_without_a_registry_nothing_is_looked_up() -> None:
    assert settings(ROUTE).registry == Registry(type="static")
    assert settings(ROUTE).listeners == (ListenerSettings(name="web", bind="0.0.0.0:8080"),)


def test_every_built_setting(tmp_path: Path) -> None:
    for name in ("ca.pem", "c.pem", "c.key"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n")
    path = tmp_path / "proxy.yaml"
    path.write_text(
        """
listeners:
  - name: web
    bind: 0.0.0.0:8080
    trusted_proxies: [10.0.0.0/8, "fd00::/8", 192.0.2.1]
    limits: {head: 64KiB, fields: 200, target: 16KiB, body: 10MiB}
    timeouts: {head: 5s, body: 20s, idle: 1m, linger: 500ms}
    proxy_protocol: false
    tls: off
  - name: https
    bind: 127.0.0.1:8443
    limits: {handshakes: 20}
    timeouts: {handshake: 3s}
    tls:
      certificates: [{cert: a.pem, key: /etc/a.key}, {directory: certs}]
      unknown_names: refuse
      min_version: "1.3"
      ciphers: ECDHE+AESGCM
      client_ca: clients.pem
      client_auth: request
      forward_client_cert: rfc9440
      tickets: false
  - {name: local, bind: "[::1]:8081", client_ip: {header: X-Real-IP, hops: 1}}
  - {name: side, bind: "unix:/run/fairlead.sock", mode: 0660, owner: "root:33"}
admin:
  {bind: "localhost:9901", token: "${TOKEN}", read_token: look, hosts: [A.b, "*.C.d", "*"],
   tls: {cert: a.pem, key: keys/a.key, client_ca: ca.pem}}
workers: 3
log: {level: debug, format: console}
access_log: off
registry:
  type: etcd
  endpoints: [https://a.example:2379, "https://[::1]:2379"]
  prefix: /prod/services/
  username: proxy
  password: ${PASSWORD}
  tls: {ca: ca.pem, cert: c.pem, key: c.key}
  backups:
    - {type: etcd, endpoints: ["https://b.example:2379"], tls: {ca: ca.pem}}
    - {type: etcd, endpoints: ["http://c.example:2379"], prefix: /prod/services/}
  check_interval: 20s
  check_timeout: 2s
  snapshot: pools.json
  mass_loss_guard: {share: 0.4}
shutdown: {delay: 0s, grace: 1m}
defaults:
  balancer: least_connections
  timeouts: {connect: 1s, idle: 30s}
  keepalive: {idle: 2s, max_idle: 10, max_requests: 100}
  retry: off
  health_check: {path: /up, interval: 2s}
  ejection: {base: 5s}
  slow_start: 30s
  panic_threshold: 0.5
  fallback_instances: [{address: 10.0.0.9, port: 80}]
services:
  users:
    timeouts: {connect: 2s, total: 0}
    retry: {max_retries: 2}
    ejection: {max_share: 0.3}
    health_check: {fall: 5}
  orders:
    balancer:
      {type: consistent_hash, key: "header:X-User-ID", virtual_nodes: 100, bounded_load: 1.25}
    health_check: off
    ejection: off
    circuit_breaker: off
    panic_threshold: 0
    slow_start: 0s
    max_inflight: 0
    queue: {size: 0}
    rate_limit: off
    drain: {tunnels: keep}
    fallback_instances: []
  legacy:
    health_check: {type: exec, command: "test -e /tmp/up"}
    instances:
      - {id: a, address: 10.0.0.7, port: 8080, weight: 2, version: 1.10, metadata: {zone: b}}
      - {address: "2001:db8::7", port: 8080}
      - {address: old.internal, port: 80, metadata: {weight: 0}}
routes:
  - {host: Users.Example.COM, service: users}
  - {host: "*.example.com", path_prefix: /orders, strip_prefix: true, service: orders}
  - {host: "{service}.svc.local"}
  - {path_prefix: "/svc/{service}", strip_prefix: true}
  - path_prefix: /old
    methods: [GET, PROPFIND]
    headers: {X-Beta: 1}
    rewrite_prefix: /new
    set_host: Upstream.internal:81
    service: legacy
"""
    )
    keepalive = Keepalive(idle=2.0, max_idle=10, max_requests=100)
    check = HealthCheckSettings(path="/up", interval=2.0)
    last = Instance(service="", id="10.0.0.9:80", address="10.0.0.9", port=80)
    defaults = PoolSettings(
        balancer=BalancerSpec(type="least_connections"),
        timeouts=Timeouts(connect=1.0, idle=30.0),
        keepalive=keepalive,
        retry=RetrySettings(max_retries=0),
        ejection=EjectionSettings(base=5.0),
        health_check=check,
        panic_threshold=0.5,
        slow_start=30.0,
        fallback=(last,),
    )
    assert load(path, {"TOKEN": "s3cret", "PASSWORD": "0123"}) == Settings(
        listeners=(
            ListenerSettings(
                name="web",
                bind="0.0.0.0:8080",
                trusted_proxies=("10.0.0.0/8", "fd00::/8", "192.0.2.1/32"),
                limits=ListenerLimits(head=65536, fields=200, target=16384, body=10485760),
                timeouts=ListenerTimeouts(head=5.0, body=20.0, idle=60.0, linger=0.5),
            ),
            ListenerSettings(
                name="https",
                bind="127.0.0.1:8443",
                limits=ListenerLimits(handshakes=20),
                timeouts=ListenerTimeouts(handshake=3.0),
                tls=ListenerTls(
                    certificates=(
                        Certificate(cert=str(tmp_path / "a.pem"), key="/etc/a.key"),
                        Certificate(directory=str(tmp_path / "certs")),
                    ),
                    unknown_names="refuse",
                    min_version="1.3",
                    ciphers="ECDHE+AESGCM",
                    client_ca=str(tmp_path / "clients.pem"),
                    client_auth="request",
                    forward_client_cert="rfc9440",
                    tickets=False,
                ),
            ),
            ListenerSettings(
                name="local",
                bind="[::1]:8081",
                client_ip=ClientIpSettings(header="X-Real-IP", hops=1),
            ),
            ListenerSettings(
                name="side", bind="unix:/run/fairlead.sock", mode=0o660, owner=(0, 33)
            ),
        ),
        admin=AdminSettings(
            bind="localhost:9901",
            token="s3cret",
            read_token="look",
            hosts=("a.b", "*.c.d", "*"),
            tls=AdminTls(
                cert=str(tmp_path / "a.pem"),
                key=str(tmp_path / "keys/a.key"),
                client_ca=str(tmp_path / "ca.pem"),
            ),
        ),
        workers=3,
        log=LogSettings(level="debug", format="console"),
        registry=Registry(
            type="etcd",
            options=EtcdOptions(
                endpoints=("https://a.example:2379", "https://[::1]:2379"),
                prefix="/prod/services/",
                username="proxy",
                password="0123",
                tls=RegistryTls(
                    ca=str(tmp_path / "ca.pem"),
                    cert=str(tmp_path / "c.pem"),
                    key=str(tmp_path / "c.key"),
                ),
            ),
            backups=(
                RegistryChoice(
                    type="etcd",
                    options=EtcdOptions(
                        endpoints=("https://b.example:2379",),
                        tls=RegistryTls(ca=str(tmp_path / "ca.pem")),
                    ),
                ),
                RegistryChoice(
                    type="etcd",
                    options=EtcdOptions(
                        endpoints=("http://c.example:2379",), prefix="/prod/services/"
                    ),
                ),
            ),
            check_interval=20.0,
            check_timeout=2.0,
            snapshot=str(tmp_path / "pools.json"),
            mass_loss_guard=MassLossSettings(share=0.4),
        ),
        shutdown=ShutdownSettings(delay=0.0, grace=60.0),
        routes=(
            RouteSpec(host="users.example.com", service="users"),
            RouteSpec(
                host="*.example.com", path_prefix="/orders", strip_prefix=True, service="orders"
            ),
            RouteSpec(host="{service}.svc.local"),
            RouteSpec(path_prefix="/svc/{service}", strip_prefix=True),
            RouteSpec(
                path_prefix="/old",
                methods=("GET", "PROPFIND"),
                headers={"X-Beta": "1"},
                rewrite_prefix="/new",
                set_host="upstream.internal:81",
                service="legacy",
            ),
        ),
        defaults=defaults,
        services={
            "users": replace(
                defaults,
                timeouts=Timeouts(connect=2.0, idle=30.0, total=0.0),
                retry=RetrySettings(max_retries=2),
                ejection=EjectionSettings(base=5.0, max_share=0.3),
                health_check=replace(check, fall=5),
                fallback=(replace(last, service="users"),),
            ),
            "orders": PoolSettings(
                balancer=BalancerSpec(
                    type="consistent_hash",
                    key="header:X-User-ID",
                    params={"virtual_nodes": 100, "bounded_load": 1.25},
                ),
                timeouts=defaults.timeouts,
                keepalive=keepalive,
                retry=RetrySettings(max_retries=0),
                ejection=EjectionSettings(base=5.0, enabled=False),
            ),
            "legacy": replace(
                defaults,
                health_check=replace(check, type="exec", command="test -e /tmp/up"),
                fallback=(replace(last, service="legacy"),),
            ),
        },
        static={
            "legacy": (
                Instance(
                    service="legacy",
                    id="a",
                    address="10.0.0.7",
                    port=8080,
                    weight=2,
                    version="1.10",
                    metadata={"zone": "b"},
                ),
                Instance(
                    service="legacy",
                    id="[2001:db8::7]:8080",
                    address="2001:db8::7",
                    port=8080,
                ),
                Instance(
                    service="legacy",
                    id="old.internal:80",
                    address="old.internal",
                    port=80,
                    weight=0,
                    metadata={"weight": "0"},
                ),
            )
        },
    )


@pytest.mark.parametrize("text", ["services:\n", "defaults:\n", "services:\n  a:\n"])
def test_a_section_of_comments_is_an_empty_section(text: str) -> None:
    assert settings(text + ROUTE).defaults == PoolSettings()


def test_tls_settings_may_wait_for_https() -> None:
    text = "registry: {type: etcd, endpoints: ['http://a:1'], tls: {}}\n" + ROUTE
    assert settings(text).registry.options == EtcdOptions(
        endpoints=("http://a:1",), tls=RegistryTls()
    )


def test_anchors_may_be_used() -> None:
    text = "services: {a: {timeouts: &t {connect: 1s}}, b: {timeouts: *t}}\n" + ROUTE
    assert settings(text).services["b"].timeouts.connect == 1.0


class TestInheritance:
    def test_a_service_inherits_key_by_key(self) -> None:
        a = service("defaults: {timeouts: {connect: 1s}}\nservices: {a: {timeouts: {idle: 2s}}}\n")
        assert a.timeouts == Timeouts(connect=1.0, idle=2.0)

    def test_parameters_of_the_same_balancer(self) -> None:
        a = service(
            "defaults: {balancer: {type: consistent_hash, key: host, virtual_nodes: 10}}\n"
            "services: {a: {balancer: {bounded_load: 2}}}\n"
        )
        assert a.balancer == BalancerSpec(
            type="consistent_hash", key="host", params={"virtual_nodes": 10, "bounded_load": 2.0}
        )

    def test_a_balancer_inherits_nothing_of_one_of_another_type(self) -> None:
        a = service(
            "defaults: {balancer: {type: consistent_hash, key: host, virtual_nodes: 10}}\n"
            "services: {a: {balancer: random}}\n"
        )
        assert a.balancer == BalancerSpec(type="random")

    @pytest.mark.parametrize(
        ("default", "own", "retries"),
        [
            ("off", "{max_retries: 2}", 2),
            ("off", "{}", 0),
            ("{max_retries: 3}", "off", 0),
            ("{max_retries: 3}", "{}", 3),
            ("{}", "{}", 1),
            ("no", "{max_retries: 0}", 0),
            ("{max_retries: 3}", '"off"', 0),  # As JSON has it.
        ],
    )
    def test_retry(self, default: str, own: str, retries: int) -> None:
        a = service(f"defaults: {{retry: {default}}}\nservices: {{a: {{retry: {own}}}}}\n")
        assert a.retry.max_retries == retries

    @pytest.mark.parametrize(
        ("own", "mode"),
        [("off", "off"), ('"off"', "off"), ("auto", "auto"), ('"auto"', "auto"), ("{}", "on")],
    )
    def test_tls(self, own: str, mode: str) -> None:
        a = service(f"defaults: {{tls: {{}}}}\nservices: {{a: {{tls: {own}}}}}\n")
        assert a.tls.mode == mode


class TestPools:
    @pytest.mark.parametrize(
        ("default", "own", "enabled", "base"),
        [
            ("{}", "{}", True, 10.0),
            ("off", "{}", True, 10.0),
            ("{base: 1s}", "off", False, 1.0),
            ("{base: 1s}", "{max: 9s}", True, 1.0),
        ],
    )
    def test_ejection(self, default: str, own: str, enabled: bool, base: float) -> None:
        a = service(f"defaults: {{ejection: {default}}}\nservices: {{a: {{ejection: {own}}}}}\n")
        assert (a.ejection.enabled, a.ejection.base) == (enabled, base)

    def test_a_check_can_be_switched_off(self) -> None:
        text = "defaults: {health_check: {}}\nservices: {a: {health_check: off}, b: {}}\n"
        built = settings(text + ROUTE)
        assert built.services["a"].health_check is None
        assert built.services["b"].health_check == HealthCheckSettings()


class TestBalancers:
    @pytest.mark.parametrize("name", catalog.BALANCERS)
    def test_short_and_long_form_are_the_same(self, name: str) -> None:
        short = service(f"services: {{a: {{balancer: {name}}}}}\n").balancer
        assert short == service(f"services: {{a: {{balancer: {{type: {name}}}}}}}\n").balancer
        balancer: type[Balancer] = catalog.load(catalog.BALANCERS, name)
        assert short == BalancerSpec(type=name, key="client_ip" if balancer.uses_key else "")

    def test_a_default_is_allowed_outside_of_the_limits(self) -> None:
        a = service("services: {a: {balancer: {type: consistent_hash, bounded_load: 0}}}\n")
        assert a.balancer.params == {"bounded_load": 0.0}

    @pytest.mark.parametrize(
        "key", ["client_ip", "host", "path", "header:X-A", "cookie:session", "query:user id"]
    )
    def test_keys(self, key: str) -> None:
        text = f'services: {{a: {{balancer: {{type: consistent_hash, key: "{key}"}}}}}}\n'
        assert service(text).balancer.key == key


class TestVariables:
    def test_in_numbers_and_in_parts_of_text(self) -> None:
        text = "workers: ${N}\nadmin: {bind: '${HOST}:${PORT:-9900}'}\n" + ROUTE
        built = settings(text, N="2", HOST="localhost")
        assert (built.workers, built.admin.bind) == (2, "localhost:9900")

    def test_in_quotes_for_a_number(self) -> None:
        assert settings('workers: "${N}"\n' + ROUTE, N="2").workers == 2

    def test_the_default_replaces_an_empty_value_too(self) -> None:
        assert settings("workers: ${N:-2}\n" + ROUTE, N="").workers == 2

    def test_an_empty_value_is_empty_text(self) -> None:
        assert settings("admin:\n  token: ${TOKEN:-}\n" + ROUTE).admin.token == ""
        assert settings("admin:\n  token: ${TOKEN}\n" + ROUTE, TOKEN="").admin.token == ""

    def test_a_value_that_looks_like_a_number_is_still_text(self) -> None:
        assert settings("admin:\n  token: ${TOKEN}\n" + ROUTE, TOKEN="0123").admin.token == "0123"

    def test_a_switch(self) -> None:
        text = "defaults: {retry: '${RETRY}'}\n" + ROUTE
        assert settings(text, RETRY="off").defaults.retry.max_retries == 0

    def test_a_value_is_not_looked_into(self) -> None:
        text = "routes: [{headers: {X-A: '${A}'}, service: a}]\n"
        (route,) = settings(text, A="${B} {c: d} # e").routes
        assert route.headers == {"X-A": "${B} {c: d} # e"}

    def test_the_characters_themselves(self) -> None:
        text = "routes: [{headers: {X-A: '$${A} $B'}, service: a}]\n"
        assert settings(text).routes[0].headers == {"X-A": "${A} $B"}


class TestYamlTraps:
    """YAML 1.1 would read these as booleans, octal, sexagesimal or floating-point numbers."""

    @pytest.mark.parametrize("written", ["no", "on", "1", "1.10", "010", "1:30", "0x1F", "1e3"])
    def test_text_stays_as_it_is_written(self, written: str) -> None:
        text = f"services: {{a: {{instances: [{{address: a, port: 1, version: {written}}}]}}}}\n"
        assert settings(text + ROUTE).static["a"][0].version == written

    def test_keys_stay_as_they_are_written(self) -> None:
        assert list(settings("services: {no: {}, 12: {}, 1.0: {}}\n" + ROUTE).services) == [
            "no",
            "12",
            "1.0",
        ]


class TestBinds:
    def test_port_0_twice_is_two_ports(self) -> None:
        text = "listeners:\n  - {name: a, bind: '[::1]:0'}\n  - {name: b, bind: '[::1]:0'}\n"
        assert [one.bind for one in settings(text + ROUTE).listeners] == ["[::1]:0"] * 2

    def test_the_same_port_of_two_addresses(self) -> None:
        text = "listeners:\n  - {name: a, bind: '[::1]:80'}\n  - {name: b, bind: '127.0.0.1:80'}\n"
        assert len(settings(text + ROUTE).listeners) == 2


class TestRoutes:
    @pytest.mark.parametrize(
        "second",
        [
            "{path_prefix: /a, service: b}",
            "{host: b.example, service: b}",
            "{path_prefix: /, service: b}",
        ],
    )
    def test_different_conditions(self, second: str) -> None:
        assert len(settings(f"routes: [{{service: a}}, {second}]\n").routes) == 2

    @pytest.mark.parametrize("condition", ["methods: [GET]", "headers: {X-A: 1}"])
    def test_the_narrower_route_first(self, condition: str) -> None:
        text = f"routes: [{{{condition}, service: b}}, {{service: a}}]\n"
        assert len(settings(text).routes) == 2

    def test_overlapping_methods(self) -> None:
        text = "routes: [{methods: [GET, PUT], service: b}, {methods: [GET, POST], service: a}]\n"
        assert len(settings(text).routes) == 2


class TestTheRepositorysOwnFile:
    path = Path(__file__).parents[2] / "proxy.yaml"

    def test_loads(self) -> None:
        built = load(self.path, {})
        assert built.registry.options.addresses == ("http://127.0.0.1:2379",)
        assert {name: one.balancer.type for name, one in built.services.items()} == {
            "users": "least_connections",
            "orders": "consistent_hash",
            "catalog": "weighted_round_robin",
        }
        assert len(built.routes) == 4

    def test_the_demo_can_point_it_at_its_own_etcd(self) -> None:
        built = load(self.path, {"FAIRLEAD_ETCD": "http://127.0.0.1:12379"})
        assert built.registry.options.addresses == ("http://127.0.0.1:12379",)


def test_complaints_can_be_told_apart() -> None:
    with pytest.raises(ConfigError) as caught:
        settings("workers: 0\n")
    first, second = caught.value.complaints
    assert (first.file, first.line, first.path) == ("proxy.yaml", 1, "routes")
    assert (second.file, second.line, second.path) == ("proxy.yaml", 1, "workers")


def test_every_key_of_a_check_says_for_which_kinds_it_has_a_meaning() -> None:
    common = {"type", "interval", "timeout", "fall", "rise"}
    assert set(keys_of(HealthCheckSettings)) == common | set(_KEYS_OF_CHECKS)
    assert all(set(kinds) <= set(CHECKS) for kinds in _KEYS_OF_CHECKS.values())


def test_services_with_the_instances_of_others() -> None:
    found = settings(
        """
services:
  app: "http://app.internal:8080"
  pay: https://pay.internal
  six: {url: "http://[::1]:81", max_inflight: 3}
  users-batch: {from: users, timeouts: {first_byte: 10m}}
  app-slow: {from: app}
"""
        + ROUTE
    )
    instances = {
        name: [(one.id, one.metadata) for one in some] for name, some in found.static.items()
    }
    assert instances == {
        "app": [("app.internal:8080", {})],
        "pay": [("pay.internal:443", {"scheme": "https", "server_name": "pay.internal"})],
        "six": [("[::1]:81", {})],
        "app-slow": [("app.internal:8080", {})],
    }
    assert found.static["app-slow"][0].service == "app-slow"
    assert found.derived == {"users-batch": "users"}
    assert found.services["six"].max_inflight == 3
    assert found.services["users-batch"].timeouts.first_byte == 600.0


def test_a_secret_of_sticky_clients_is_read_and_inherited(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef\n")
    text = """
registry: {type: etcd, endpoints: ["http://127.0.0.1:1"], prefix: /here/}
defaults: {sticky: {secret_file: secret}}
services: {a: {}, b: {sticky: {ttl: 1h}}, c: {sticky: off}}
"""
    found = parse(text + ROUTE, str(tmp_path / "proxy.yaml"), {})
    stickies = [found.services[name].sticky for name in "abc"]
    assert [one and (one.secret, one.ttl) for one in stickies] == [
        ("0123456789abcdef", 0.0),
        ("0123456789abcdef", 3600.0),
        None,
    ]
    found = parse(text.replace("secret_file: secret", "ttl: 1s") + ROUTE, "proxy.yaml", {})
    assert found.defaults.sticky is not None
    assert "/here/" in found.defaults.sticky.secret


def test_secrets_may_stand_in_files(tmp_path: Path) -> None:
    held = {"change": "c", "look": "l", "follow": "f", "kid": "a2V5"}
    for name, text in held.items():
        (tmp_path / name).write_text(f"{text}\n")
    text = """
registry: {type: etcd, endpoints: ["http://127.0.0.1:1"]}
admin: {token_file: change, read_token_file: look}
relay: {bind: "0.0.0.0:9901", token_file: follow}
acme: {directory: "https://a/b", domains: [a.example], eab: {kid: a, hmac_key_file: kid}}
"""
    file = tmp_path / "proxy.yaml"
    found = parse(text + ROUTE, str(file), {})
    (tmp_path / "follow").write_text("g")
    anew = with_secrets_anew(found, file)
    for one, token in ((found, "f"), (anew, "g")):
        assert one.relay is not None
        assert one.acme is not None
        assert one.acme.eab is not None
        secrets = (one.admin.token, one.admin.read_token, one.relay.token, one.acme.eab.hmac_key)
        assert secrets == ("c", "l", token, "a2V5")
    assert found.secret_files == set(held)


def test_a_text_that_is_empty_unless_given_may_be_given_so(tmp_path: Path) -> None:
    key = {"kty": "oct", "k": "A" * 86, "alg": "HS256"}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [key]}))
    text = """
registry: {type: etcd, endpoints: ["http://127.0.0.1:1"]}
admin: {bind: "127.0.0.1:0", advertise: ""}
services: {a: {sticky: {secret_file: ""}}}
filters: {tokens: {jwt: {jwks_file: keys.json, jwks_url: "", algorithms: [HS256]}}}
routes: [{path_prefix: /, service: a, filters: [tokens]}]
"""
    found = parse(text, str(tmp_path / "proxy.yaml"), {})
    assert found.services["a"].sticky is not None


def test_included_files_add_services_and_routes(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.yaml").write_text("routes: [{path: /b, service: b}]\n")
    (tmp_path / "conf.d" / "a.yaml").write_text(
        'services: {a: "http://a.internal"}\nroutes:\n  - {path: /a, service: a}\n'
    )
    (tmp_path / "conf.d" / "c.yaml").write_text("# nothing\n")
    text = 'include: ["conf.d/*.yaml", "none.d/*"]\nroutes: [{path: /, service: z}]\n'
    found = parse(text, str(tmp_path / "proxy.yaml"), {})
    assert [route.service for route in found.routes] == ["z", "a", "b"]
    assert list(found.services) == ["a"]


def test_included_filters_are_for_all_files_and_each_name_stands_once(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "a.yaml").write_text(
        "filters:\n  big: {body_limit: 1KiB}\n  page: {error_pages: {file: page.html}}\n"
        "routes: [{path: /a, service: a, filters: [big, own]}]\n"
    )
    text = """
include: [a.yaml]
filters: {own: {body_limit: 1MiB}}
routes: [{path: /, service: z, filters: [page, big]}]
"""
    found = parse(text, str(file), {})
    assert [[one.name for one in route.filters] for route in found.routes] == [
        ["page", "big"],
        ["big", "own"],
    ]
    assert found.routes[0].filters[1] == found.routes[1].filters[0]
    assert found.routes[0].filters[0].settings["file"] == str(tmp_path / "page.html")

    (tmp_path / "a.yaml").write_text(
        "filters:\n  own: {body_limit: 1KiB}\n  big: {body_limit: {size: huge}}\n"
    )
    with pytest.raises(ConfigError) as error:
        parse(text, str(file), {})
    found_wrong = [str(one).partition(";")[0] for one in error.value.complaints]
    assert found_wrong[-2:] == [
        f"{tmp_path}/a.yaml:2: filters.own: stands in the file that includes this one, too",
        f'{tmp_path}/a.yaml:3: filters.big.body_limit.size: "huge" is not a size',
    ]


def test_complaints_name_the_included_file(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(
        "workers: 3\nservices:\n  x: {max_inflight: many}\n  own: {}\n"
        "routes:\n  - {path: z, service: a}\n"
    )
    b.write_text("services: {x: {}}\nroutes: {}\n")
    (tmp_path / "c.yaml").write_text("routes: [")
    text = "include: ['[abc].yaml', gone.yaml]\nservices: {own: {}}\nroutes: [{service: y}]\n"
    with pytest.raises(ConfigError) as error:
        parse(text, str(tmp_path / "proxy.yaml"), {})
    found = [str(one).removeprefix(f"{tmp_path}/") for one in error.value.complaints]
    assert [line.partition(";")[0] for line in found] == [
        'proxy.yaml:1: include.1: there is no "gone.yaml"',
        "a.yaml:1: workers: has no place in an included file",
        'a.yaml:3: services.x.max_inflight: "many" is not a whole number',
        "a.yaml:4: services.own: stands in the file that includes this one, too",
        'a.yaml:6: routes.1.path: "z" does not begin with /',
        "b.yaml:1: services.x: stands in " + str(a) + ", too",
        "b.yaml:2: routes: is no list",
        "c.yaml:1: not valid YAML: expected the node content, but found '<stream end>'",
    ]


def test_a_file_whose_listeners_all_pass_connections_on_needs_no_route() -> None:
    listeners = [{"bind": "127.0.0.1:5432", "mode_tcp": "db"}]
    settings = parse(json.dumps({"listeners": listeners}), "proxy.yaml", {})
    assert settings.routes == ()
    listeners.append({"name": "web", "bind": "127.0.0.1:8080"})
    with pytest.raises(ConfigError, match="at least one route"):
        parse(json.dumps({"listeners": listeners}), "proxy.yaml", {})
