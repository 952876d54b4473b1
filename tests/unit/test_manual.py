"""The manual page is what the parser says, and can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from proxy import manual
from proxy.catalog import REGISTRATION_BACKENDS
from proxy.cli import main

FILE = Path(__file__).parents[2] / manual.PAGE


def test_the_page_is_what_the_parser_says() -> None:
    assert FILE.read_text("utf-8") == manual.page(), "run `make docs`"
    for group, path in ((main, ""), *((main.commands[one], f"{one} ") for one in ("ca", "config"))):
        assert isinstance(group, click.Group)
        for name in group.list_commands(click.Context(group)):
            assert f'"fairlead {path}{name} '.replace("-", "\\-") in FILE.read_text("utf-8")


@pytest.mark.parametrize("command", ["register", "sidecar"])
def test_registries_of_the_help_are_those_in_which_services_can_register(command: str) -> None:
    [option] = [one for one in main.commands[command].params if one.name == "registry"]
    assert isinstance(option, click.Option)
    assert re.findall(r"([\w-]+)://", option.help or "") == sorted(REGISTRATION_BACKENDS)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_page_is_formatted_without_a_warning() -> None:
    run = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(FILE)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
