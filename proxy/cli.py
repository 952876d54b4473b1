"""The `fairlead` command. Exit codes: 0 ok, 1 failed at run time, 2 bad usage or configuration.

Each command imports what it needs when it runs: `fairlead version` does not load an HTTP
server, and the commands that ask a running proxy do not load the engine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import proxy
from proxy import cli_admin, cli_fleet
from proxy.cli_config import DEFAULT_FILE, complain, load_or_complain
from proxy.listings import count

if TYPE_CHECKING:
    from proxy.settings.file import Settings
    from proxy.settings.registry import RegistryOptions

config_option = click.option(
    "-c",
    "--config",
    "file",
    default=DEFAULT_FILE,
    show_default=True,
    metavar="FILE",
    help="Configuration file.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(proxy.__version__, message="fairlead %(version)s")
def main() -> None:
    """Fairlead: a service-discovery reverse proxy."""


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"fairlead {proxy.__version__}")


@main.command()
@config_option
@click.option("--parent", type=int, hidden=True, help="Descriptor of the way to the parent.")
def run(file: str, parent: int | None) -> None:
    """Run the proxy in the foreground; it logs on standard error."""
    if parent is None:
        from proxy import parent as process_of_life

        raise SystemExit(process_of_life.tend(["run", "--config", file]))
    from proxy.control import process
    from proxy.control.openings import StartError
    from proxy.control.parent_link import ParentError, ParentLink
    from proxy.settings.complaints import ConfigError
    from proxy.settings.load import load

    link = ParentLink(parent)
    try:
        link.begin()
        code = process.run(load(Path(file), os.environ), Path(file), link)
    except ConfigError as error:
        link.failed("; ".join(map(str, error.complaints)))
        complain(error)
    except (ParentError, StartError) as error:
        link.failed(str(error))
        raise click.ClickException(str(error)) from None
    raise SystemExit(code)


@main.command()
@config_option
def check(file: str) -> None:
    """Check the configuration and print everything that is wrong with it."""
    # Here the complaints are what was asked for, so they are output and not errors.
    settings = load_or_complain(file, complaints_are_output=True)
    _check_certificates(file, settings)
    click.echo(
        f"{file}: good: {count(len(settings.listeners), 'listener')},"
        f" {count(len(settings.routes), 'route')},"
        f" {count(len(settings.services), 'service')} by name"
    )


def _check_certificates(file: str, settings: Settings) -> None:
    """Say what is wrong with certificates; the exit code is 2 then. Warnings are errors' output."""
    from proxy.control.certificate_files import remarks
    from proxy.settings.load import located

    found = list(remarks(settings, time.time()))
    for only_warns in (True, False):
        some = [(one.place, one.message) for one in found if one.only_warns is only_warns]
        for line in located(Path(file), os.environ, some):
            click.echo(f"warning: {line}" if only_warns else line, err=only_warns)
    if any(not one.only_warns for one in found):
        raise SystemExit(2)


@main.command()
def schema() -> None:
    """Print the JSON Schema of proxy.yaml, for editors."""
    from proxy.settings.document import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@main.command()
@click.option(
    "-c",
    "--config",
    "file",
    metavar="FILE",
    help="Configuration file  [default: proxy.yaml if there is one, else a built-in one].",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the first listener.")
@click.option("--admin-port", type=click.IntRange(1, 65535), help="Port of the admin server.")
def demo(file: str | None, port: int | None, admin_port: int | None) -> None:
    """Run the proxy with its own etcd and three sample services, until Ctrl-C."""
    _split_if_first()
    from proxy import demo as demonstration
    from proxy.control.openings import StartError
    from proxy.settings.complaints import ConfigError

    path = Path(file or DEFAULT_FILE)
    try:
        code = demonstration.run(path if file or path.exists() else None, port, admin_port)
    except ConfigError as error:
        complain(error)
    except StartError as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(code)


def _split_if_first() -> None:
    """Before anything is loaded: a process that stays behind stays small."""
    from proxy import init

    code = init.split_if_first()
    if code is not None:
        raise SystemExit(code)


# --------------------------------------------------------------------- the service's side


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


_DURATION = _Duration()


def _metadata(_ctx: Any, _param: Any, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.BadParameter(f"{name!r} is not of the form K=V")
    return {name: value for name, _, value in pairs}


@main.command()
@click.option("--service", required=True, metavar="S", help="Name of the service.")
@click.option("--port", required=True, type=click.IntRange(1, 65535), metavar="P", help="Its port.")
@click.option(
    "--address", default="", metavar="A", help="Its address  [default: ours on the way to etcd]."
)
@click.option("--id", "id_", default="", metavar="I", help="Its id  [default: HOSTNAME-PORT].")
@click.option("--version", "version_", default="", metavar="V", help="Its version.")
@click.option("--weight", type=click.IntRange(0), default=1, metavar="N", help="0 = drained.")
@click.option(
    "--protocol",
    type=click.Choice(["h1", "h2c", "h2", "grpc"]),
    help="What it speaks  [default: what the proxy has for the service].",
)
@click.option("--meta", multiple=True, callback=_metadata, metavar="K=V", help="Metadata.")
@click.option("--ttl", type=_DURATION, default=10.0, show_default="10s", help="Life of the lease.")
@click.option(
    "--check",
    metavar="CHECK",
    help="http://HOST:PORT/PATH, tcp://HOST:PORT or exec:COMMAND. Served only while it is good;"
    " without one, at once.",
)
@click.option("--interval", type=_DURATION, default=5.0, show_default="5s", help="Of the check.")
@click.option("--timeout", type=_DURATION, default=1.0, show_default="1s", help="Of the check.")
@click.option(
    "--fall", type=click.IntRange(1), default=3, show_default=True, help="Bad checks to go out."
)
@click.option(
    "--rise", type=click.IntRange(1), default=2, show_default=True, help="Good checks to come back."
)
@click.option(
    "--drain-wait",
    type=_DURATION,
    default=3.0,
    show_default="3s",
    help="At a stop: between marking it as draining and deregistering it.",
)
@click.option(
    "--stop-timeout",
    type=_DURATION,
    default=10.0,
    show_default="10s",
    help="At a stop: between SIGTERM and SIGKILL for COMMAND.",
)
@click.option(
    "-c",
    "--config",
    "file",
    metavar="FILE",
    help="Take etcd from this file's registry section  [default: proxy.yaml, if there is one].",
)
@click.option(
    "--registry",
    metavar="URL",
    help="consul://HOST:PORT, etcd://…, zookeeper://HOST:PORT,HOST:PORT/PREFIX; instead of a"
    " file's.",
)
@click.option("--endpoints", metavar="URL,…", help="etcd, instead of a file's.")
@click.option(
    "--prefix", metavar="KEY", help="Where records are  [default: the file's, /services/]."
)
@click.option(
    "--format", metavar="NAME", help="Of the record, for those who read others than ours."
)
@click.option("--username", metavar="NAME", help="User of the registry.")
@click.option("--password", envvar="ETCD_PASSWORD", help="Its password; better in $ETCD_PASSWORD.")
@click.option(
    "--token", envvar="CONSUL_HTTP_TOKEN", help="Consul's token; better in $CONSUL_HTTP_TOKEN."
)
@click.option("--ca", metavar="PEM", help="Authority of the registry's certificate.")
@click.option("--cert", metavar="PEM", help="Client certificate for the registry.")
@click.option("--key", metavar="PEM", help="Its key.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def register(**given: Any) -> None:
    """Register an instance, keep it registered, report its health, deregister it at the end.

    With COMMAND (after --) run it as a child: signals go to it, and its exit code is ours. On
    SIGTERM the instance is marked draining, then deregistered, and then COMMAND is stopped.
    """
    _split_if_first()
    raise SystemExit(_registered(given))


def _registered(given: dict[str, Any]) -> int:
    """Run `register`; the exit code."""
    from proxy import log
    from proxy.register import sidecar
    from proxy.register.record import Record

    default = {log.FORMAT_VARIABLE: "console" if sys.stderr.isatty() else "json"}
    log.set_up(log.from_environment({**default, **os.environ}))
    try:
        settings = sidecar.SidecarSettings(
            record=Record(
                service=given["service"],
                port=given["port"],
                address=given["address"],
                id=given["id_"],
                version=given["version_"],
                weight=given["weight"],
                protocol=given["protocol"] or "",
                metadata=given["meta"],
            ),
            registry=_registry(given),
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
        return sidecar.run(settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _registry(given: dict[str, Any]) -> RegistryOptions:
    """The registry as the options say, else as the file does, else etcd on this machine."""
    import msgspec

    from proxy.catalog import REGISTRATION_BACKENDS, registry_options
    from proxy.register.backend import read_key, registry_at
    from proxy.settings.registry import RegistryTls

    etcd = registry_options("etcd")
    registry: RegistryOptions = etcd(endpoints=("http://127.0.0.1:2379",))
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
    if secure:
        changes["tls"] = RegistryTls(ca=given["ca"], cert=given["cert"], key=given["key"])
    return msgspec.structs.replace(registry, **changes)


for command in (*cli_admin.COMMANDS, *cli_fleet.COMMANDS):
    main.add_command(command)
