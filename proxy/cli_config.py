"""Reading the configuration for commands: what is wrong with it is printed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from proxy.settings.complaints import ConfigError
    from proxy.settings.file import Settings

DEFAULT_FILE = "proxy.yaml"


def load_or_complain(file: str, complaints_are_output: bool = False) -> Settings:
    """The settings in the file. If it has faults, all are printed, and the exit code is 2."""
    from proxy.settings.complaints import ConfigError
    from proxy.settings.load import load

    try:
        return load(Path(file), os.environ)
    except ConfigError as error:
        complain(error, to_errors=not complaints_are_output)


def complain(error: ConfigError, to_errors: bool = True) -> NoReturn:
    for complaint in error.complaints:
        click.echo(str(complaint), err=to_errors)
    raise SystemExit(2) from None
