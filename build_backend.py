"""The build backend: that of setuptools, with the data plane compiled wherever it can be.

`pip install` compiles where there is a C compiler, and Python's headers. Where there is none, where
it fails or takes longer than `LIMIT`, the modules are installed as they are, and a line says why.
`FAIRLEAD_COMPILED=0` does not try; `FAIRLEAD_COMPILED=1` fails where it cannot. An editable install
is compiled only if asked: an extension module beside an edited source would silently win.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from setuptools import build_meta
from setuptools.build_meta import build_editable

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, Any] | None
_P = ParamSpec("_P")
_R = TypeVar("_R")

NEEDED = ["aiohttp>=3.12", "msgspec>=0.19", "mypy[mypyc]>=1.10", "pycares>=5.0", "structlog>=24.1"]
"""The compiler, and what the compiled modules and those that they import import, so that it knows
their types."""

LIMIT = 300.0
"""Seconds for compiling: twice what it takes on one quiet core of a present machine."""


@contextmanager
def _environ(name: str, value: str) -> Iterator[None]:
    """Have a variable for as long as this lasts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _plain(hook: Callable[_P, _R]) -> Callable[_P, _R]:
    """A hook of setuptools that runs `setup.py`, but builds nothing: when it is called, the
    compiler need not be there yet, and what it says is the same without."""

    @wraps(hook)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _environ("FAIRLEAD_COMPILED", "0"):
            return hook(*args, **kwargs)

    return called


build_sdist = _plain(build_meta.build_sdist)
get_requires_for_build_sdist = _plain(build_meta.get_requires_for_build_sdist)
prepare_metadata_for_build_editable = _plain(build_meta.prepare_metadata_for_build_editable)
prepare_metadata_for_build_wheel = _plain(build_meta.prepare_metadata_for_build_wheel)


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What pip installs into the isolated environment; the compiler only where it will be used."""
    requires = _plain(build_meta.get_requires_for_build_wheel)(config_settings)
    return [*requires, *_needed(_hindrance())]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """The same for `pip install --editable`."""
    asked = os.environ.get("FAIRLEAD_COMPILED") == "1"
    requires = _plain(build_meta.get_requires_for_build_editable)(config_settings)
    return [*requires, *_needed("" if asked else "nobody asked for it")]


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel, compiled if that is possible; its file name."""
    hindrance = _hindrance()
    if not hindrance and "FAIRLEAD_COMPILED" not in os.environ:
        wheel, hindrance = _compiled(wheel_directory)
        if wheel:
            return wheel
    if hindrance:
        sys.stderr.write(f"fairlead-proxy: the data plane is not compiled: {hindrance}\n")
    with _build_directory():
        return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def _needed(hindrance: str) -> list[str]:
    return [] if hindrance else NEEDED


def _hindrance() -> str:
    """Why the data plane cannot, or shall not, be compiled; empty if it can."""
    wish = os.environ.get("FAIRLEAD_COMPILED")
    if wish not in (None, "0", "1"):
        sys.exit(f'FAIRLEAD_COMPILED: is "{wish}"; allowed: 0, 1, or not set')
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    if wish == "1":
        return ""
    if wish == "0":
        return "FAIRLEAD_COMPILED=0"
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it is compiled for CPython with its global lock only"
    if not shutil.which(compiler):
        return f"there is no {compiler}"
    return "" if header.exists() else f"there is no {header}"


def _compiled(wheel_directory: str) -> tuple[str, str]:
    """The name of a compiled wheel, or why there is none. In a process of its own, which can be
    ended, with the compilers that it has started, when it takes too long."""
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    with _build_directory() as directory, tempfile.TemporaryFile() as said:
        out = Path(directory, "wheel")
        process = subprocess.Popen(
            [sys.executable, "-c", build, str(out)],
            env={**os.environ, "FAIRLEAD_COMPILED": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            failed = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return "", f"it took longer than {LIMIT:g} s"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if failed:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            return "", next((line for line in reversed(lines) if line.strip()), f"exit {failed}")
        wheel = next(out.glob("*.whl"))
        os.makedirs(wheel_directory, exist_ok=True)
        shutil.move(wheel, wheel_directory)
        return wheel.name, ""


@contextmanager
def _build_directory() -> Iterator[str]:
    """Have setuptools build in a directory that goes afterwards. In `build/` of the sources it
    would take along what an earlier build has left there: modules compiled from other sources."""
    with tempfile.TemporaryDirectory(prefix="fairlead-build-") as directory:
        config = Path(directory, "build.cfg")
        config.write_text(f"[build]\nbuild_base = {directory}\n")
        with _environ("DIST_EXTRA_CONFIG", str(config)):
            yield directory
