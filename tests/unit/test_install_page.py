"""docs/install.md: what it says is installed is what pip brings, and no more of it is loaded."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = (Path(__file__).parents[2] / "docs/install.md").read_text("utf-8")
TABLE = PAGE.partition("## What is installed with it")[2]
OLD = {"python_version": "3.11", "python_full_version": "3.11.0", "extra": ""}
NEW = {"python_version": "3.13", "python_full_version": "3.13.0", "extra": ""}


def needed(environment: dict[str, str]) -> set[str]:
    """Distributions that `pip install fairlead-proxy` brings, itself among them."""
    found: set[str] = set()
    pending = {"fairlead-proxy"}
    while pending:
        name = pending.pop()
        found.add(name)
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                pending |= {canonicalize_name(requirement.name)} - found
    return found


def test_distributions_of_the_page_are_those_that_pip_brings() -> None:
    rows = re.findall(r"^\| ([\w, -]+) \| .*\|", TABLE, re.MULTILINE)[1:]
    listed = {canonicalize_name(name) for row in rows for name in row.split(", ")}
    assert listed == needed(OLD) - {"fairlead-proxy"}


def test_number_of_distributions_is_that_of_the_page() -> None:
    """A ratchet, too: who needs one more has to say so here, and what it is for."""
    numbers = [int(number) for number in re.findall(r"\b2\d\b", TABLE.partition("|")[0])]
    assert numbers == [len(needed(OLD)), len(needed(NEW))] == [29, 28]


UNUSED = {"etcd3", "requests", "semantic_version", "six", "urllib3", "OpenSSL", "certifi"}


@pytest.mark.parametrize(
    "modules",
    ["proxy.cli, proxy.parent, proxy.control.process", "proxy.engine.worker", "proxy.discovery"],
)
def test_processes_load_etcd3_only_to_ask_etcd(modules: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert not UNUSED & {name.partition(".")[0] for name in loaded}
