"""How many CPUs this process may use: its affinity, and the CPU quota of its cgroups.

A quota (`docker run --cpus`, Kubernetes' `limits.cpu`, systemd's `CPUQuota`) leaves the affinity
as it is: a container with half a CPU on a machine with 64 sees 64. Each ancestor of a cgroup may
have a quota, and the smallest counts. Version 1 and 2 of cgroups may be mounted side by side
(cgroups(7)); what cannot be read limits nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable() -> int:
    """CPUs in the affinity mask, at most the quota rounded up, at least 1."""
    cpus = len(os.sched_getaffinity(0))
    limit = quota()
    return cpus if limit is None else max(1, min(cpus, limit))


def quota(root: Path = Path("/")) -> int | None:
    """The smallest quota of this process's cgroups, in CPUs, rounded up; None = there is none.
    `root`: where `proc` and the mounted file systems are."""
    limits = [limit for group in _groups(root) if (limit := _limit(group)) is not None]
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The directories of the cgroups that may limit this process's CPU time, with all ancestors
    that can be seen from here."""
    own = _own_groups(_read(root / "proc/self/cgroup"))
    mounts = [*_mounts(_read(root / "proc/self/mountinfo"))]
    for kind, path in own.items():
        seen = [(place, _below(path, top)) for one, top, place in mounts if one == kind]
        # If none of them holds us, as far as paths tell, we are in a container that is told the
        # host's paths, or none: then what is mounted there is its own group.
        for place, below in [one for one in seen if one[1] is not None] or seen:
            directory = root / place.lstrip("/")
            yield directory
            for part in below or ():
                directory /= part
                yield directory


def _below(path: str, top: str) -> tuple[str, ...] | None:
    """The way from one cgroup to another, or None where there is none down."""
    try:
        parts = PurePosixPath(path).relative_to(top).parts
    except ValueError:
        return None
    # Outside of the cgroup namespace that we see (cgroup_namespaces(7)).
    return None if ".." in parts else parts


def _own_groups(text: str) -> dict[str, str]:
    """Kind of hierarchy → path in it, from /proc/self/cgroup: `ID:CONTROLLERS:PATH`."""
    found = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            found["cgroup"] = path
    return found


def _mounts(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind, root within the hierarchy, and place of each mounted hierarchy that may have quotas,
    from /proc/self/mountinfo (proc(5)): `ID PARENT DEVICE ROOT PLACE … - KIND SOURCE OPTIONS`."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, filesystem = before.split(" "), after.split(" ")
        kind, options = filesystem[0], filesystem[-1].split(",")
        if len(fields) > 4 and (kind == "cgroup2" or (kind == "cgroup" and "cpu" in options)):
            yield kind, _plain(fields[3]), _plain(fields[4])


def _plain(path: str) -> str:
    """Spaces and the like are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _limit(group: Path) -> int | None:
    """One cgroup's quota in CPUs, rounded up: version 2 has `cpu.max` (`QUOTA PERIOD`, or `max`),
    version 1 a file for each (quota -1 = none)."""
    written = _read(group / "cpu.max").split() or [
        *_read(group / "cpu.cfs_quota_us").split(),
        *_read(group / "cpu.cfs_period_us").split(),
    ]
    try:
        time, period = map(int, written)
    except ValueError:
        return None
    return -(-time // period) if time > 0 and period > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
