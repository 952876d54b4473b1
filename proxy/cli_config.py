"""Common to commands: answers as JSON, and reading the configuration, whose faults are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from proxy.settings.complaints import ConfigError
    from proxy.settings.file import Settings

C = TypeVar("C", bound=Callable[..., Any] | click.Command)

DEFAULT_FILE = "proxy.yaml"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def file_option(about: str) -> Callable[[C], C]:
    """`-c FILE`, which has a default."""
    return click.option(
        *("-c", "--config", "file"),
        default=DEFAULT_FILE,
        show_default=True,
        metavar="FILE",
        help=about,
    )


def named(_ctx: Any, _param: Any, text: str | None) -> tuple[str, ...]:
    """Names between commas; none if the option is not given. One that names none, such as an empty
    variable, is refused: all are not meant."""
    names = tuple(filter(None, map(str.strip, (text or "").split(","))))
    if text is not None and not names:
        raise click.BadParameter("names nobody; allowed: such as a,b")
    return names


def show(document: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print an answer: as JSON, or for people."""
    for line in (json.dumps(document, indent=2),) if as_json else lines:
        click.echo(line)


def load_or_complain(file: str) -> Settings:
    """The settings in the file. If it has faults, all are printed, and the exit code is 2."""
    from proxy.settings.complaints import ConfigError
    from proxy.settings.load import load

    try:
        return load(Path(file), os.environ)
    except ConfigError as error:
        complain(error)


def complain(error: ConfigError) -> NoReturn:
    for complaint in error.complaints:
        click.echo(str(complaint), err=True)
    raise SystemExit(2) from None
