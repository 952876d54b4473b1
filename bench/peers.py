"""The proxies that are compared: where each is found, how it is configured and started.

All do the same job: one listener, one backend, keep-alive on both sides, X-Forwarded-For
added, access log off unless that is measured. Everything else is each product's own default,
which for Fairlead includes its metrics.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench import compiled
from bench.certificates import NAME, key_of
from bench.processes import Server

VERSION_LIMIT = 10.0
"""Seconds for `--version`; a Go binary of 180 MB read from a cold disk takes some of them."""


@dataclass(frozen=True)
class Setup:
    """Where one proxy shall listen and what it shall forward to, all on 127.0.0.1."""

    directory: Path
    port: int
    admin_port: int
    backend_port: int
    workers: int
    open_files: int
    """The limit the process starts with; what it takes of it is its own business."""
    idle: int = 64
    """Idle connections to the backend worth keeping, where a number must be given."""
    websocket: bool = False
    """Upgrades must pass, where that has to be said."""
    certificate: Path | None = None
    """The listener speaks TLS 1.3 with it, over X25519 or P-256, and lets sessions be resumed."""
    instance_authority: Path | None = None
    """The backend speaks TLS, and must prove with this that it is `NAME`."""
    http2: bool = False
    """Clients speak HTTP/2."""
    http2_to_instances: bool = False
    """The backend speaks HTTP/2 in clear text."""
    access_log: bool = False
    """A line for each request into `ACCESS_LOG`, in the format and with the buffering that are
    the product's defaults."""


ACCESS_LOG = "access.log"


def executable(name: str) -> str | None:
    """The program's path: on PATH, or beside the interpreter, where wheels put programs."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), beside)))


class Peer(ABC):
    """One product."""

    name: str
    version_arguments: ClassVar[Sequence[str]] = ("--version",)
    known: ClassVar[bool] = True
    """We know how to configure it, not only how to start it."""

    def find(self) -> str | None:
        """Path of the program, None when it is not installed."""
        return executable(self.name)

    @abstractmethod
    def files(self, setup: Setup) -> Mapping[str, str]:
        """Configuration: file name in the set-up's directory → text."""

    @abstractmethod
    def command(self, setup: Setup) -> Sequence[str]:
        """Arguments after the program."""

    def environment(self, setup: Setup) -> Mapping[str, str]:
        """Variables to add."""
        return {}

    def working_directory(self, setup: Setup) -> Path:
        """Where the program runs."""
        return setup.directory

    def access_log(self, setup: Setup) -> Path:
        """Where its access log is."""
        return setup.directory / ACCESS_LOG

    def output(self, setup: Setup) -> Path:
        """Where everything goes that it prints."""
        return setup.directory / f"{self.name}.log"

    def start(self, setup: Setup, cores: frozenset[int]) -> Server:
        """Write the files and start. The caller waits for readiness and stops the server."""
        for name, text in self.files(setup).items():
            (setup.directory / name).write_text(text)
        return Server(
            self.name,
            [self.find() or self.name, *self.command(setup)],
            directory=self.working_directory(setup),
            log=self.output(setup),
            cores=cores,
            environment=self.environment(setup),
        )

    def version(self) -> str:
        """The first version number the program prints of itself, "?" when there is none."""
        program = self.find()
        if program is None:
            return "?"
        try:
            done = subprocess.run(
                [program, *self.version_arguments],
                capture_output=True,
                text=True,
                timeout=VERSION_LIMIT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return "?"
        match = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return match.group() if match else "?"


class Fairlead(Peer):
    """Compiled, if `make compiled` was run since the last change: that is how it is deployed."""

    name = "fairlead"
    version_arguments = ("version",)

    def find(self) -> str | None:
        # The checkout's own, before any other that may be installed on this machine.
        beside = Path(sys.executable).parent / "fairlead"
        return str(beside) if beside.exists() else executable("fairlead")

    def files(self, setup: Setup) -> Mapping[str, str]:
        log = f"access_log: {{path: {ACCESS_LOG}, format: json}}" if setup.access_log else ""
        tls = to_instances = ""
        if setup.certificate:
            pair = f"{{cert: {setup.certificate}, key: {key_of(setup.certificate)}}}"
            tls = f', tls: {{certificates: [{pair}], min_version: "1.3"}}'
        if setup.instance_authority:
            to_instances = f"tls: {{ca: {setup.instance_authority}, server_name: {NAME}}}"
        if setup.http2:
            tls += ", http2: true"
        if setup.http2_to_instances:
            to_instances = "protocol: h2c"
        return {
            "fairlead.yaml": f"""\
{log}
listeners: [{{bind: "127.0.0.1:{setup.port}"{tls}}}]
admin: {{bind: "127.0.0.1:{setup.admin_port}"}}
workers: {setup.workers}
services:
  bench:
    balancer: round_robin
    {to_instances}
    instances: [{{id: a, address: 127.0.0.1, port: {setup.backend_port}}}]
routes: [{{path_prefix: /, service: bench}}]
"""
        }

    def command(self, setup: Setup) -> Sequence[str]:
        return ("run", "-c", "fairlead.yaml")

    def environment(self, setup: Setup) -> Mapping[str, str]:
        return compiled.environment() if compiled.is_built() else {}


class FairleadInPython(Fairlead):
    """The same sources, interpreted. A row of its own only where the other one is compiled."""

    name = "fairlead-py"

    def find(self) -> str | None:
        return super().find() if compiled.is_built() else None

    def environment(self, setup: Setup) -> Mapping[str, str]:
        return {}


def nginx_base(workers: int) -> str:
    """The part of nginx.conf that a proxy and a backend share: foreground, everything it
    writes in its own directory."""
    # Started as root, its workers would drop to a user who may not read our directory.
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""\
daemon off;
{user}
worker_processes {workers};
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 20480; }}
"""


NGINX_HTTP = """\
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 0;
  keepalive_requests 100000000;
"""


def nginx_tls(certificate: Path) -> str:
    """Directives of a server that speaks TLS 1.3."""
    return f"""\
ssl_certificate {certificate};
    ssl_certificate_key {key_of(certificate)};
    ssl_protocols TLSv1.3;
    ssl_ecdh_curve X25519:prime256v1;
    """


class Nginx(Peer):
    name = "nginx"
    version_arguments = ("-v",)

    def find(self) -> str | None:
        # Debian puts it in /usr/sbin, which is not on every user's PATH.
        return executable(self.name) or shutil.which(self.name, path="/usr/sbin")

    def files(self, setup: Setup) -> Mapping[str, str]:
        # The default of 16 KiB sends the bodies of post_16k through a file, at three times
        # the cost; nobody who serves such requests leaves it at that.
        # reuseport spreads connections over several workers as evenly as the others do.
        options = " reuseport" if setup.workers > 1 else ""
        log = f"{ACCESS_LOG} combined" if setup.access_log else "off"
        connection, fields = '""', ""
        scheme, tls = "http", ""
        if setup.certificate:
            options += " ssl"
            tls = f"{nginx_tls(setup.certificate)}ssl_session_tickets on;"
        if setup.instance_authority:
            scheme = "https"
            fields = f"""\
proxy_ssl_protocols TLSv1.3;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {setup.instance_authority};
      proxy_ssl_name {NAME};
      proxy_ssl_server_name on;"""
        options += " http2" * setup.http2
        forward = f"proxy_pass {scheme}://backend;"
        if setup.http2_to_instances:
            forward = "grpc_pass grpc://backend;"  # There is no other way to speak it.
        if setup.websocket:
            connection = "$upgrade_or_keep"
            fields = "proxy_set_header Upgrade $http_upgrade;"
        return {
            "nginx.conf": f"""\
{nginx_base(setup.workers)}
http {{
{NGINX_HTTP}
  access_log {log};
  client_body_buffer_size 64k;
  map $http_upgrade $upgrade_or_keep {{ default upgrade; "" ""; }}
  upstream backend {{
    server 127.0.0.1:{setup.backend_port};
    keepalive {setup.idle};
  }}
  server {{
    listen 127.0.0.1:{setup.port} backlog=4096{options};
    {tls}
    location / {{
      {forward}
      proxy_http_version 1.1;
      proxy_set_header Connection {connection};
      {fields}
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""
        }

    def command(self, setup: Setup) -> Sequence[str]:
        return ("-p", str(setup.directory), "-e", "stderr", "-c", "nginx.conf")


class Haproxy(Peer):
    name = "haproxy"
    version_arguments = ("-v",)

    def find(self) -> str | None:
        return executable(self.name) or shutil.which(self.name, path="/usr/sbin")

    def files(self, setup: Setup) -> Mapping[str, str]:
        # http-reuse always: an idle connection serves whoever comes next, as in the others.
        # It refuses to start when the limit of files has no room for two for each connection.
        connections = min(12_000, setup.open_files // 2 - 100)
        # It writes no files itself; what it prints goes to one.
        target = "log stdout format raw local0 info" if setup.access_log else ""
        log = "log global\n  option httplog" if setup.access_log else ""
        tls = to_instances = ""
        if setup.certificate:
            tls = f" ssl crt {setup.certificate} ssl-min-ver TLSv1.3 curves X25519:P-256"
        if setup.instance_authority:
            to_instances = (
                f" ssl ssl-min-ver TLSv1.3 verify required ca-file {setup.instance_authority}"
                f" sni str({NAME}) verifyhost {NAME}"
            )
        if setup.http2:
            tls += " alpn h2" if tls else " proto h2"
        if setup.http2_to_instances:
            to_instances += " proto h2"
        return {
            "haproxy.cfg": f"""\
global
  nbthread {setup.workers}
  maxconn {connections}
  {target}
defaults
  mode http
  {log}
  timeout connect 3s
  timeout client 75s
  timeout server 60s
  timeout tunnel 1h
  option forwardfor
  http-reuse always
frontend web
  bind 127.0.0.1:{setup.port} backlog 4096{tls}
  default_backend bench
backend bench
  server a 127.0.0.1:{setup.backend_port}{to_instances}
"""
        }

    def command(self, setup: Setup) -> Sequence[str]:
        return ("-db", "-f", "haproxy.cfg")

    def access_log(self, setup: Setup) -> Path:
        return self.output(setup)


class Caddy(Peer):
    name = "caddy"
    version_arguments = ("version",)

    def files(self, setup: Setup) -> Mapping[str, str]:
        log = f"log {{\n    output file {ACCESS_LOG}\n  }}" if setup.access_log else ""
        scheme, tls, to_instances = "http", "", ""
        protocols = "h1 h2c h2" if setup.http2 else "h1 h2"
        if setup.http2_to_instances:
            to_instances = "versions h2c 2"
        if setup.certificate:
            scheme = "https"
            tls = f"""\
tls {setup.certificate} {key_of(setup.certificate)} {{
    protocols tls1.3
    curves x25519 secp256r1
  }}"""
        if setup.instance_authority:
            to_instances = f"""\
tls
      tls_server_name {NAME}
      tls_trust_pool file {setup.instance_authority}"""
        return {
            "Caddyfile": f"""\
{{
  admin off
  auto_https off
  servers {{
    protocols {protocols}
  }}
  log {{
    level ERROR
  }}
}}
{scheme}://:{setup.port} {{
  bind 127.0.0.1
  {log}
  {tls}
  reverse_proxy 127.0.0.1:{setup.backend_port} {{
    transport http {{
      keepalive_idle_conns_per_host {setup.idle}
      {to_instances}
    }}
  }}
}}
"""
        }

    def command(self, setup: Setup) -> Sequence[str]:
        return ("run", "--config", "Caddyfile", "--adapter", "caddyfile")

    def environment(self, setup: Setup) -> Mapping[str, str]:
        home = str(setup.directory)
        return {
            "GOMAXPROCS": str(setup.workers),
            "HOME": home,
            "XDG_DATA_HOME": home,
            "XDG_CONFIG_HOME": home,
        }


_ENVOY_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_ENVOY_API = f"{_ENVOY_EXTENSIONS}.filters"


def _envoy_tls(side: str, common: str, own: str = "") -> str:
    """The transport socket of one side, `Downstream` or `Upstream`."""
    versions = "tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3"
    return (
        f"{{name: tls, typed_config: {{"
        f'"@type": {_ENVOY_EXTENSIONS}.transport_sockets.tls.v3.{side}TlsContext, {own}'
        f"common_tls_context: {{tls_params: {{{versions}, ecdh_curves: [X25519, P-256]}}, "
        f"{common}}}}}}}"
    )


class Envoy(Peer):
    name = "envoy"

    def files(self, setup: Setup) -> Mapping[str, str]:
        # The default breaker of 1,024 connections would answer 503 in the larger scenarios.
        options = []
        if setup.websocket:
            options.append("upgrade_configs: [{upgrade_type: websocket}]")
        if setup.access_log:
            sink = f"{_ENVOY_EXTENSIONS}.access_loggers.file.v3.FileAccessLog"
            config = f'{{"@type": {sink}, path: {ACCESS_LOG}}}'
            options.append(f"access_log: [{{name: file, typed_config: {config}}}]")
        more = "\n          ".join(options)
        tls = to_instances = ""
        if setup.certificate:
            pair = (
                f"{{certificate_chain: {{filename: {setup.certificate}}}, "
                f"private_key: {{filename: {key_of(setup.certificate)}}}}}"
            )
            common = f"tls_certificates: [{pair}]" + ", alpn_protocols: [h2]" * setup.http2
            tls = f"transport_socket: {_envoy_tls('Downstream', common)}"
        if setup.instance_authority:
            name = f"{{san_type: DNS, matcher: {{exact: {NAME}}}}}"
            validation = (
                f"validation_context: {{trusted_ca: {{filename: {setup.instance_authority}}}, "
                f"match_typed_subject_alt_names: [{name}]}}"
            )
            to_instances = (
                f"transport_socket: {_envoy_tls('Upstream', validation, f'sni: {NAME}, ')}"
            )
        if setup.http2_to_instances:
            kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
            to_instances = (
                f"typed_extension_protocol_options: {{{kind}: "
                f'{{"@type": type.googleapis.com/{kind}, '
                "explicit_http_config: {http2_protocol_options: {}}}}"
            )
        return {
            "envoy.yaml": f"""\
static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: {setup.port}}}}}
    filter_chains:
    - {tls}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {_ENVOY_API}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          use_remote_address: true
          {more}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: bench}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": {_ENVOY_API}.http.router.v3.Router
  clusters:
  - name: bench
    type: STATIC
    {to_instances}
    circuit_breakers:
      thresholds:
      - {{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}
    load_assignment:
      cluster_name: bench
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: 127.0.0.1, port_value: {setup.backend_port}}}}}
"""
        }

    def command(self, setup: Setup) -> Sequence[str]:
        return (
            "-c", "envoy.yaml", "--concurrency", str(setup.workers),
            "--disable-hot-restart", "--log-level", "error",
        )  # fmt: skip


class Traefik(Peer):
    name = "traefik"
    version_arguments = ("version",)

    def files(self, setup: Setup) -> Mapping[str, str]:
        scheme, tls, on, to_instances = "http", "", "", ""
        if setup.certificate:
            on = ", tls: {}"
            pair = f"{{certFile: {setup.certificate}, keyFile: {key_of(setup.certificate)}}}"
            tls = f"""\
tls:
  stores: {{default: {{defaultCertificate: {pair}}}}}
  options: {{default: {{minVersion: VersionTLS13, curvePreferences: [X25519, CurveP256]}}}}
"""
        if setup.instance_authority:
            scheme = "https"
            to_instances = f", rootCAs: [{setup.instance_authority}], serverName: {NAME}"
        return {
            "routes.yaml": f"""\
{tls}
http:
  routers:
    bench: {{rule: "PathPrefix(`/`)", service: bench, entryPoints: [web]{on}}}
  services:
    bench:
      loadBalancer:
        serversTransport: bench
        servers: [{{url: "{scheme}://127.0.0.1:{setup.backend_port}"}}]
  serversTransports:
    bench: {{maxIdleConnsPerHost: {setup.idle}{to_instances}}}
"""
        }

    def command(self, setup: Setup) -> Sequence[str]:
        return (
            f"--entryPoints.web.address=127.0.0.1:{setup.port}",
            "--providers.file.filename=routes.yaml",
            "--providers.file.watch=false",
            *(
                ("--accesslog=true", f"--accesslog.filepath={ACCESS_LOG}")
                if setup.access_log
                else ()
            ),
            "--log.level=ERROR",
            "--global.checkNewVersion=false",
            "--global.sendAnonymousUsage=false",
        )

    def environment(self, setup: Setup) -> Mapping[str, str]:
        return {"GOMAXPROCS": str(setup.workers)}


class Command(Peer):
    """Any other proxy: `NAME=PROGRAM ARGUMENTS`, with {port}, {admin}, {backend} and
    {workers} in the arguments replaced."""

    known = False

    def __init__(self, text: str) -> None:
        name, separator, line = text.partition("=")
        words = shlex.split(line)
        if not separator or not words or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"{text!r}: expected NAME=PROGRAM ARGUMENTS")
        found = shutil.which(words[0])
        self._program = os.path.abspath(found) if found else None
        self._arguments = words[1:]
        self.name = name

    def find(self) -> str | None:
        return self._program

    def files(self, setup: Setup) -> Mapping[str, str]:
        return {}

    def working_directory(self, setup: Setup) -> Path:
        # Where the user stands, so that the arguments may hold relative paths.
        return Path.cwd()

    def command(self, setup: Setup) -> Sequence[str]:
        values = {
            "{port}": setup.port,
            "{admin}": setup.admin_port,
            "{backend}": setup.backend_port,
            "{workers}": setup.workers,
        }
        return [_replaced(argument, values) for argument in self._arguments]


def _replaced(argument: str, values: Mapping[str, int]) -> str:
    for placeholder, value in values.items():
        argument = argument.replace(placeholder, str(value))
    return argument


PEERS: tuple[type[Peer], ...] = (
    Fairlead, FairleadInPython, Nginx, Haproxy, Caddy, Envoy, Traefik,
)  # fmt: skip
