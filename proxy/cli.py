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
from msgspec.structs import asdict

import proxy
from proxy import cli_register
from proxy.cli_config import DEFAULT_FILE, complain, file_option, json_option, show

if TYPE_CHECKING:
    from proxy.settings.complaints import Complaint
    from proxy.settings.file import Settings

config_option = file_option("Configuration file.")


class _Commands(click.Group):
    """Loads the commands of operators when one is asked for, or all are: a process that runs for
    long would keep them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `Group`."""
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `Group`."""
        if cmd_name not in self.commands:
            self._load()
        return super().get_command(ctx, cmd_name)

    def _load(self) -> None:
        from proxy import cli_admin, cli_ca, cli_fleet

        for command in (*cli_ca.COMMANDS, *cli_admin.COMMANDS, *cli_fleet.COMMANDS):
            self.add_command(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(proxy.__version__, message="fairlead %(version)s")
def main() -> None:
    """Fairlead: a service-discovery reverse proxy."""


@main.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    show({"version": proxy.__version__}, [f"fairlead {proxy.__version__}"], as_json)


@main.command()
@config_option
@click.option("--parent", type=int, hidden=True, help="Descriptor of the way to the parent.")
def run(file: str, parent: int | None) -> None:
    """Run the proxy in the foreground; it logs on standard error."""
    if parent is None:
        from proxy import parent as process_of_life

        raise SystemExit(process_of_life.tend(["run", "--config", file]))
    from proxy import lean

    lean.load_structlog()
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
@json_option
def check(file: str, as_json: bool) -> None:
    """Check the configuration and print everything that is wrong with it."""
    from proxy.listings import count
    from proxy.settings.complaints import ConfigError
    from proxy.settings.load import load

    warnings: tuple[Complaint, ...] = ()
    good = ""
    try:
        settings = load(Path(file), os.environ)
    except ConfigError as error:
        wrong = error.complaints
    else:
        wrong, warnings = _about_certificates(file, settings)
        good = (
            f"{file}: good: {count(len(settings.listeners), 'listener')},"
            f" {count(len(settings.routes), 'route')},"
            f" {count(len(settings.services), 'service')} by name"
        )
    for one in () if as_json else warnings:
        click.echo(f"warning: {one}", err=True)
    told = {"complaints": list(map(asdict, wrong)), "warnings": list(map(asdict, warnings))}
    # Here the complaints are what was asked for, so they are output and not errors.
    show({"file": file, "good": not wrong, **told}, map(str, wrong) if wrong else [good], as_json)
    if wrong:
        raise SystemExit(2)


def _about_certificates(file: str, settings: Settings) -> list[tuple[Complaint, ...]]:
    """Complaints about certificates, and warnings of what soon will be wrong with them."""
    from proxy.control.certificate_files import remarks
    from proxy.settings.load import located

    found = list(remarks(settings, time.time()))
    split = [[one for one in found if one.only_warns is warns] for warns in (False, True)]
    return [
        located(Path(file), os.environ, [(one.place, one.message) for one in some])
        for some in split
    ]


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


for command in cli_register.COMMANDS:
    main.add_command(command)
