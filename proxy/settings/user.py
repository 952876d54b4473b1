"""`user:`, as whom the proxy runs once its sockets are bound."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable
from typing import Final

import msgspec

from proxy.settings.read import Read

_LARGEST: Final = 2**32 - 2
"""Highest id of a user or group: the system takes the next one for "unchanged"."""


class RunAs(msgspec.Struct, frozen=True):
    """A user of this machine, with the groups that processes of theirs have."""

    user: int
    group: int
    groups: tuple[int, ...]


def run_as(text: str) -> RunAs:
    """The user that `user` or `user:group` names. ValueError that continues a sentence."""
    name, colon, group_name = text.partition(":")
    if not name or (colon and not group_name):
        raise ValueError("is not a user")
    user = user_id(name)
    group = group_id(group_name) if group_name else None
    try:
        found = pwd.getpwuid(user) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if group is None:
            raise ValueError("has no group on this machine, which does not know it") from None
        return RunAs(user, group, (group,))
    group = found.pw_gid if group is None else group
    return RunAs(user, group, tuple(os.getgrouplist(found.pw_name, group)))


def user_id(name: str) -> int:
    """The id of a user by name or number. ValueError that continues a sentence."""
    return _id(name, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group_id(name: str) -> int:
    """Id of the group that `name` names, or is. ValueError that continues a sentence."""
    return _id(name, "group", lambda name: grp.getgrnam(name).gr_gid)


def _id(name: str, what: str, look_up: Callable[[str], int]) -> int:
    if re.fullmatch("[0-9]{1,10}", name):
        if int(name) > _LARGEST:
            raise ValueError(f"has too large a {what} id")
        return int(name)
    try:
        return look_up(name)
    except (KeyError, ValueError):
        raise ValueError(f"names a {what} that this machine does not have") from None


def _parse_user(text: str) -> str:
    if text:
        run_as(text)
    return text


USER: Final = Read(
    _parse_user, "owner", 'user or user:group, by names or by numbers, or "" for no other'
)
