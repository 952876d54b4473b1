"""Builds the data plane as extension modules when asked to: `FAIRLEAD_COMPILED=1 pip wheel .`.

Without that variable only the scanner of field blocks is native, and that not where there is no
compiler: it has a twin in Python. With it, mypyc compiles the modules below from the same sources.
Everything else stays as it is: what is not on the path of each request gains nothing, and balancers
stay plain Python, since users write their own.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup

INTERPRETED = {
    "proxy/engine/__main__.py": "a main module cannot be compiled",
    "proxy/engine/line_file.py": "a thread of its own writes, which costs no request anything",
    "proxy/engine/load.py": "the control process maps the board, too; what is hot is an array",
}
"""Modules of the data plane that are not compiled, and why."""

COMPILED = sorted(
    path.as_posix()
    for folder in ("proxy/engine", "proxy/http", "proxy/http2")
    for path in Path(folder).rglob("*.py")
    if path.name != "__init__.py" and path.as_posix() not in INTERPRETED
)

# What the compiled modules import, so that the compiler knows its types, and the compiler.
NEEDED = ["msgspec>=0.19", "mypy[mypyc]>=1.10", "structlog>=24.1"]

SCANNER = Extension("proxy.http._scanner", ["proxy/http/_scanner.c"], optional=True)

if os.environ.get("FAIRLEAD_COMPILED") != "1":
    setup(ext_modules=[SCANNER])
else:
    try:
        from mypyc.build import mypycify
    except ImportError:
        # pip asks first what the build needs, and runs this again once it is there.
        setup(setup_requires=NEEDED)
    else:
        setup(
            ext_modules=[
                *mypycify(COMPILED, opt_level="3", debug_level="0", group_name="fairlead"),
                SCANNER,
            ],
        )
