"""Giving up root, for good, in a process of ours. Loaded by the parent, so it loads little."""

from __future__ import annotations

import os
from collections.abc import Sequence


def become(user: int, group: int, groups: Sequence[int]) -> None:
    """Be this user, of this group and these further ones, with none of root's capabilities and no
    way back. Nothing happens in a process that is not root. OSError when it may not."""
    if os.geteuid() != 0:
        return
    os.setgroups(groups)  # While it may: those of root would remain.
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
