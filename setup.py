"""Builds the data plane as extension modules if FAIRLEAD_COMPILED is 1 (see `build_backend.py`).

Else only the scanner of field blocks and histograms are native, and they not where there is no
compiler: each has a twin in Python. With it, mypyc compiles the modules below from the same
sources. Everything else stays as it is: what is not on the path of each request gains nothing, and
balancers stay plain Python, since users write their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

INTERPRETED = {
    "proxy/engine/__main__.py": "a main module cannot be compiled",
    "proxy/engine/line_file.py": "a thread of its own writes, which costs no request anything",
    "proxy/engine/line_socket.py": "so does that of this one",
    "proxy/engine/load.py": "the control process maps the board, too; what is hot is an array",
}
"""Modules of the data plane that are not compiled, and why."""

COMPILED = sorted(
    [
        path.as_posix()
        for folder in ("proxy/engine", "proxy/http", "proxy/http2")
        for path in Path(folder).rglob("*.py")
        if path.name != "__init__.py" and path.as_posix() not in INTERPRETED
    ]
    # A scrape adds up a million counts where there are twenty thousand instances.
    + ["proxy/latency.py"]
)

NATIVE = [
    Extension(f"{package}._{name}", [f"{package.replace('.', '/')}/_{name}.c"], optional=True)
    for package, name in (("proxy.http", "scanner"), ("proxy", "latency"))
]

CORES = len(os.sched_getaffinity(0))


class BuildOnAllCores(build_ext):
    """Has as many compilers run as there are cores: for the many sources of one extension, too,
    which setuptools has wait for each other."""

    def build_extensions(self) -> None:
        compile_: Callable[..., list[str]] = self.compiler.compile
        with ThreadPoolExecutor(CORES) as compilers:

            def side_by_side(sources: list[str], **options: Any) -> list[str]:
                each = compilers.map(lambda source: compile_([source], **options), sources)
                return [compiled for objects in each for compiled in objects]

            self.compiler.compile = side_by_side
            self.parallel = CORES
            super().build_extensions()


modules = [*NATIVE]
if os.environ.get("FAIRLEAD_COMPILED") == "1":
    from mypyc.build import mypycify

    compiled = mypycify(
        COMPILED, opt_level="3", debug_level="0", group_name="fairlead", multi_file=True
    )
    for module in compiled:
        # Nobody else has the symbols, so calls between the files need no linkage table.
        module.extra_compile_args.append("-fvisibility=hidden")
    modules += compiled
setup(ext_modules=modules, cmdclass={"build_ext": BuildOnAllCores})
