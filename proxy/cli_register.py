"""Commands of the service's side: `register`, and `sidecar` with the mesh's proxy beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from proxy.cli_config import DEFAULT_FILE, load_or_complain, named

if TYPE_CHECKING:
    from proxy.register.sidecar import SidecarSettings
    from proxy.settings.registry import RegistryOptions


def split_if_first() -> None:
    """Before anything is loaded or opened: a process that stays behind stays small."""
    from proxy import init

    code = init.split_if_first()
    if code is not None:
        raise SystemExit(code)


class _Duration(click.ParamType[float]):
    """`250ms`, `3s`, `2m`: as in the configuration file. Seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value  # A default.
        from proxy.settings.read import parse_duration

        try:
            return parse_duration(value)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 250ms, 3s, 2m or 1h", param, ctx)


DURATION = _Duration()


def _metadata(_ctx: Any, _param: Any, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.BadParameter(f"{name!r} is not of the form K=V")
    return {name: value for name, _, value in pairs}


_REGISTERING = (
    click.option("--service", required=True, metavar="S", help="Name of the service."),
    click.option(
        "--port", required=True, type=click.IntRange(1, 65535), metavar="P", help="Its port."
    ),
    click.option(
        "--address",
        default="",
        metavar="A",
        help="Its address  [default: ours on the way to etcd].",
    ),
    click.option("--id", "id_", default="", metavar="I", help="Its id  [default: HOSTNAME-PORT]."),
    click.option("--version", "version_", default="", metavar="V", help="Its version."),
    click.option("--weight", type=click.IntRange(0), default=1, metavar="N", help="0 = drained."),
    click.option("--meta", multiple=True, callback=_metadata, metavar="K=V", help="Metadata."),
    click.option(
        "--ttl", type=DURATION, default=10.0, show_default="10s", help="Life of the lease."
    ),
    click.option(
        "--check",
        metavar="CHECK",
        help="http://HOST:PORT/PATH, tcp://HOST:PORT or exec:COMMAND. Served only while it is good;"
        " without one, at once, and by a side-car of the mesh when the port accepts.",
    ),
    click.option("--interval", type=DURATION, default=5.0, show_default="5s", help="Of the check."),
    click.option("--timeout", type=DURATION, default=1.0, show_default="1s", help="Of the check."),
    click.option(
        "--fall", type=click.IntRange(1), default=3, show_default=True, help="Bad checks to go out."
    ),
    click.option(
        "--rise",
        type=click.IntRange(1),
        default=2,
        show_default=True,
        help="Good checks to come back.",
    ),
    click.option(
        "--drain-wait",
        type=DURATION,
        default=3.0,
        show_default="3s",
        help="At a stop: between marking it as draining and deregistering it.",
    ),
    click.option(
        "--stop-timeout",
        type=DURATION,
        default=10.0,
        show_default="10s",
        help="At a stop: between SIGTERM and SIGKILL for COMMAND.",
    ),
    click.option(
        "-c",
        "--config",
        "file",
        metavar="FILE",
        help="Take etcd from this file's registry section, and for a side-car of the mesh what it"
        " says of services  [default: proxy.yaml, if there is one].",
    ),
    click.option(
        "--registry",
        metavar="URL",
        help="consul://HOST:PORT, consul-kv://…, etcd://…, eureka://…, nacos://…,"
        " zookeeper://HOST:PORT,HOST:PORT/PREFIX; instead of a file's.",
    ),
    click.option("--endpoints", metavar="URL,…", help="etcd, instead of a file's."),
    click.option(
        "--prefix", metavar="KEY", help="Where records are  [default: the file's, /services/]."
    ),
    click.option(
        "--format", metavar="NAME", help="Of the record, for those who read others than ours."
    ),
    click.option("--username", metavar="NAME", help="User of the registry."),
    click.option(
        "--password", envvar="ETCD_PASSWORD", help="Its password; better in $ETCD_PASSWORD."
    ),
    click.option(
        "--token", envvar="CONSUL_HTTP_TOKEN", help="Consul's token; better in $CONSUL_HTTP_TOKEN."
    ),
    click.option("--ca", metavar="PEM", help="Authority of the registry's certificate."),
    click.option("--cert", metavar="PEM", help="Client certificate for the registry."),
    click.option("--key", metavar="PEM", help="Its key."),
)
"""Options of whoever registers an instance."""


def _registering(command: Any) -> Any:
    for option in reversed(_REGISTERING):
        command = option(command)
    return command


@click.command()
@_registering
@click.option(
    "--protocol",
    type=click.Choice(["h1", "h2c", "h2", "grpc"]),
    help="What it speaks  [default: what the proxy has for the service].",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def register(**given: Any) -> None:
    """Register an instance, keep it registered, report its health, deregister it at the end.

    With COMMAND (after --) run it as a child: signals go to it, and its exit code is ours. On
    SIGTERM the instance is marked draining, then deregistered, and then COMMAND is stopped.
    """
    split_if_first()
    raise SystemExit(_registered(given))


def _registered(given: dict[str, Any]) -> int:
    """Run `register`; the exit code."""
    from proxy import log
    from proxy.register import sidecar

    default = {log.FORMAT_VARIABLE: "console" if sys.stderr.isatty() else "json"}
    log.set_up(log.from_environment({**default, **os.environ}))
    try:
        return sidecar.run(_sidecar(given, _registry(given)))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _sidecar(given: dict[str, Any], registry: RegistryOptions, **more: Any) -> SidecarSettings:
    """Settings of a registration. `more`: of the record, in place of the options."""
    from proxy.register.record import Record
    from proxy.register.sidecar import SidecarSettings

    record = Record(
        service=given["service"],
        port=given["port"],
        address=given["address"],
        id=given["id_"],
        version=given["version_"],
        weight=given["weight"],
        protocol=given["protocol"] or "",
        metadata=given["meta"],
    )
    return SidecarSettings(
        record=structs.replace(record, **more),
        program_port=given["port"],
        registry=registry,
        ttl=given["ttl"],
        check=given["check"],
        interval=given["interval"],
        timeout=given["timeout"],
        fall=given["fall"],
        rise=given["rise"],
        drain_wait=given["drain_wait"],
        stop_timeout=given["stop_timeout"],
        command=given["command"],
    )


@click.command()
@_registering
@click.option(
    "--protocol",
    type=click.Choice(["h1", "h2c", "grpc", "tcp"]),
    default="h1",
    show_default=True,
    help="What the program speaks on its port; tcp: anything, connections are passed on.",
)
@click.option(
    "--inbound",
    default="0.0.0.0:18443",
    show_default=True,
    metavar="BIND",
    help="Where others call, with certificates; its port is registered.",
)
@click.option(
    "--outbound",
    default="127.0.0.1:15001",
    show_default=True,
    metavar="BIND",
    help="Where the program calls others: the first label of Host is the service. Loopback only.",
)
@click.option(
    "--admin",
    default="127.0.0.1:15000",
    show_default=True,
    metavar="BIND",
    help="Readiness, metrics, dashboard.",
)
@click.option(
    "--tcp",
    multiple=True,
    callback=_metadata,
    metavar="S=BIND",
    help="Where the program finds a service that speaks something else: db=127.0.0.1:5432.",
)
@click.option(
    "--to", callback=named, metavar="S,…", help="Services that it may reach  [default: any]."
)
@click.option(
    "--callers",
    metavar="S,…",
    help="Services that may call it  [default: as the file says, or any].",
)
@click.option(
    "--trust-domain",
    default="mesh.local",
    show_default=True,
    metavar="D",
    help="Certificates name SERVICE.D or spiffe://D/SERVICE.",
)
@click.option(
    "--identity",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Has tls.crt, tls.key and ca.crt; what is renewed there is used.",
)
@click.option(
    "--renew-from",
    metavar="URL",
    help="An authority (fairlead ca serve) that renews what is in DIR, at a third of its life.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sidecar(**given: Any) -> None:
    """Run the mesh's proxy beside a program, and register it.

    Others reach the program, which listens on loopback, with a certificate of the trust domain; it
    reaches them by http://127.0.0.1:15001 with the service in Host. With COMMAND (after --) the
    program is run as a child: signals go to it, and its exit code is ours.
    """
    split_if_first()
    raise SystemExit(_beside(given))


def _beside(given: dict[str, Any]) -> int:
    """Run `sidecar`; the exit code."""
    from proxy import lean

    lean.load_structlog()
    from proxy.mesh import heap

    heap.tune()  # Before there are threads.
    from proxy import log
    from proxy.control.openings import StartError
    from proxy.mesh import sidecar as mesh
    from proxy.mesh.composition import MeshOptions, checked
    from proxy.settings.file import Settings

    default = {log.FORMAT_VARIABLE: "console" if sys.stderr.isatty() else "json"}
    try:
        registry = _registry(given)
        named = given["registry"] is not None or given["endpoints"] is not None
        file = Path(given["file"] or DEFAULT_FILE)
        if given["file"] is None and not file.exists():
            base = Settings(log=log.from_environment({**default, **os.environ}))
        else:
            base = load_or_complain(str(file))
        same = ("service", "port", "protocol", "trust_domain", "inbound", "outbound", "admin")
        options = checked(
            MeshOptions(
                **{name: given[name] for name in (*same, "identity", "renew_from")},
                tcp=tuple(given["tcp"].items()),
                to=given["to"],
                callers=_names(given["callers"]),
                registry=None if file.exists() and not named else registry,
            )
        )
        if given["check"] is None:
            given["check"] = f"tcp://127.0.0.1:{options.port}"
        # Others speak to the side-car, under TLS.
        settings = _sidecar(
            given,
            registry,
            port=options.inbound_port,
            address=given["address"] or options.address,
            protocol={"h2c": "h2", "grpc": "grpc"}.get(options.protocol, ""),
            metadata={"scheme": "https", **given["meta"]},
        )
        return mesh.run(settings, base, file if file.exists() else None, options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except StartError as error:
        raise click.ClickException(str(error)) from None


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(name for one in text.split(",") if (name := one.strip()))


def _registry(given: dict[str, Any]) -> RegistryOptions:
    """The registry as the options say, else as the file does, else etcd on this machine."""
    import msgspec

    from proxy.catalog import REGISTRATION_BACKENDS, registry_options
    from proxy.register.backend import read_key, registry_at
    from proxy.register.foreign import place_of
    from proxy.settings.declare import keys_of
    from proxy.settings.registry import RegistryTls

    etcd = registry_options("etcd")
    registry: Any = etcd(endpoints=("http://127.0.0.1:2379",))
    file = given["file"]
    secure = bool(given["ca"] or given["cert"] or given["key"])
    if given["registry"] is not None:
        if given["endpoints"] is not None:
            raise ValueError("--registry and --endpoints: give one of them")
        registry = registry_at(given["registry"], secure=secure)
    elif given["endpoints"] is not None:
        urls = tuple(url.strip() for url in given["endpoints"].split(",") if url.strip())
        registry = etcd(endpoints=urls)
    elif file is not None or Path(DEFAULT_FILE).exists():
        from_file = load_or_complain(file or DEFAULT_FILE).registry.registering
        if from_file.type in REGISTRATION_BACKENDS:
            registry = from_file
        elif file is not None:
            allowed = " or ".join(map(repr, sorted(REGISTRATION_BACKENDS)))
            raise ValueError(f"{file}: registry.type: {from_file.type!r}; register needs {allowed}")
    names = ["prefix", "format", "username", "password"]
    if hasattr(registry, "token"):  # The variable may be there for others.
        names.append("token")
    changes = {
        name: read_key(type(registry), name, given[name])
        for name in names
        if given[name] is not None
    }
    # Who reads another format looks elsewhere, unless a prefix is given.
    place = place_of(registry.type, changes.get("format", ""))
    kind: type[RegistryOptions] = type(registry)
    if place is not None and registry.prefix == keys_of(kind)["prefix"].default:
        changes.setdefault("prefix", place)
    if secure:
        changes["tls"] = RegistryTls(ca=given["ca"], cert=given["cert"], key=given["key"])
    made: RegistryOptions = msgspec.structs.replace(registry, **changes)
    return made


COMMANDS = (register, sidecar)
