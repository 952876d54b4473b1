"""The `fairlead` command. Exit codes: 0 ok, 1 failed at run time, 2 bad usage or configuration.

Each command imports what it needs when it runs: `fairlead version` does not load an HTTP
server, and the commands that ask a running proxy do not load the engine.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

import proxy
from proxy import cli_admin, cli_ca, cli_fleet, cli_register
from proxy.cli_config import DEFAULT_FILE, complain, load_or_complain
from proxy.listings import count

if TYPE_CHECKING:
    from proxy.settings.file import Settings

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
    cli_register.split_if_first()
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


for command in (*cli_register.COMMANDS, *cli_ca.COMMANDS, *cli_admin.COMMANDS, *cli_fleet.COMMANDS):
    main.add_command(command)
