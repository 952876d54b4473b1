"""`user:`, as whom the proxy runs once its sockets are bound."""

from __future__ import annotations

import grp
import os
import pwd
import re
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
    number = _number(name)
    try:
        found = pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
    except (KeyError, ValueError):
        if number is None:
            raise ValueError("names a user that this machine does not have") from None
        if not group_name:
            raise ValueError("has no group on this machine, which does not know it") from None
        group = _group(group_name)
        return RunAs(number, group, (group,))
    group = _group(group_name) if group_name else found.pw_gid
    return RunAs(found.pw_uid, group, tuple(os.getgrouplist(found.pw_name, group)))


def _group(name: str) -> int:
    number = _number(name)
    if number is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ValueError("names a group that this machine does not have") from None


def _number(name: str) -> int | None:
    """An id, if it is one. ValueError for one that cannot be."""
    if not re.fullmatch("[0-9]{1,10}", name):
        return None
    if int(name) > _LARGEST:
        raise ValueError("has too large an id")
    return int(name)


def _parse_user(text: str) -> str:
    if text:
        run_as(text)
    return text


USER: Final = Read(
    _parse_user, "owner", 'user or user:group, by names or by numbers, or "" for no other'
)
