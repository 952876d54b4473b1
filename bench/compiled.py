"""The data plane as extension modules, as `make compiled` builds it beside the sources.

It is a copy of the packages in a directory of its own, so that nothing compiled can shadow a source
that was edited since. Whoever is to use it gets `environment()`.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "compiled"
STAMP = BUILT / ".stamp"


def is_built() -> bool:
    """It is there, for this Python, and no source is newer. With FAIRLEAD_COMPILED=0 it does not
    count: what is installed is meant."""
    if os.environ.get("FAIRLEAD_COMPILED") == "0" or not STAMP.exists():
        return False
    if not any(BUILT.glob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}")):
        return False
    built = STAMP.stat().st_mtime
    sources = [path for name in ("proxy", "balancers") for path in (ROOT / name).rglob("*.py")]
    return all(path.stat().st_mtime <= built for path in (*sources, ROOT / "setup.py"))


def environment() -> dict[str, str]:
    """Variables with which a Python process, and those it starts, use it."""
    # The safe path keeps the directory a process is started in from coming first.
    path = os.pathsep.join((str(BUILT), str(ROOT)))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
