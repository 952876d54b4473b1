"""A file system of one's own for a command: that of this machine, of which a copy is made of what
is written, and in it Fairlead as its packages install it.

    /opt/fairlead/bin    fairlead, and the python that has it
    /opt/fairlead/src    this repository

For what expects to be a machine, or a container. Root alone may have it, in a mount namespace.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.programs import REPOSITORY

BIN = "/opt/fairlead/bin"

_WRAPPER = """#!/bin/sh
export PYTHONPATH=/opt/fairlead/src:/opt/fairlead/site LD_LIBRARY_PATH=/opt/fairlead/python/lib
exec /opt/fairlead/python/bin/{python} {words} "$@"
"""


def in_own_root(root: Path, binds: Mapping[str, Path], script: str = "") -> list[str]:
    """The command in front of the one that is to run there. `root`: a directory to build it on;
    `binds`: place in it → directory or file of this machine; `script`: commands of the shell, in
    the new root."""
    places = {
        "/opt/fairlead/src": REPOSITORY,
        "/opt/fairlead/site": Path(sysconfig.get_paths()["purelib"]),
        "/opt/fairlead/python": Path(sys.base_prefix),
        **binds,
    }
    python = Path(sys.executable).resolve().name
    lines = [
        "set -e",
        f"mount -t tmpfs -o mode=755 none {shlex.quote(str(root))}",
        f"cd {shlex.quote(str(root))}",
        "mkdir upper work root",
        "mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work none root",
        "cd root",
        "mount -t proc none proc",
        "mount --rbind /sys sys",
        "mount --rbind /dev dev",
        "mount -t tmpfs -o mode=1777 none tmp",
        "mount -t tmpfs -o mode=755 none run",
    ]
    for place, path in places.items():
        inside = shlex.quote(f".{place}")
        make = "mkdir -p" if path.is_dir() else f"mkdir -p $(dirname {inside}); touch"
        lines += [f"{make} {inside}", f"mount --bind {shlex.quote(str(path))} {inside}"]
    lines.append(f"mkdir -p .{BIN}")
    for name, words in (("fairlead", "-m proxy"), ("python", "")):
        text = shlex.quote(_WRAPPER.format(python=python, words=words))
        lines += [f"printf %s {text} > .{BIN}/{name}", f"chmod 755 .{BIN}/{name}"]
    lines += ["pivot_root . mnt", "cd /", "umount -l /mnt", script, 'exec "$@"']
    return ["/bin/sh", "-c", "\n".join(lines), "sh"]


def can_have_own_root(directory: Path) -> bool:
    """Whether this machine lets us, and an unprivileged user run Fairlead in it."""
    if os.geteuid() != 0:
        return False
    command = ["unshare", "--mount", "--pid", "--fork", *in_own_root(directory, {})]
    look = ["setpriv", "--reuid=1000", "--clear-groups", f"{BIN}/fairlead", "version"]
    try:
        return subprocess.run([*command, *look], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
