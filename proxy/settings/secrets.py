"""Secrets in files of their own: what `KEY_file` names holds the value of `KEY`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Final, TypeVar

import msgspec

from proxy import files
from proxy.settings.complaints import Report
from proxy.settings.declare import Given, keys_of
from proxy.settings.tree import Scalar

S = TypeVar("S", bound=msgspec.Struct)

_LARGEST: Final = 4096


def with_secrets(section: S, given: Given, directory: FilePath, report: Report) -> S:
    """The section with the secrets that its files hold, after complaints of those."""
    found = {}
    for key, name in named(section):
        place = given.at(f"{key}_file")
        if key in given:
            report.complain(place, f"stands beside {key}; allowed: one of the two")
        try:
            found[key] = secret_in(type(section), key, directory / name)
        except ValueError as error:
            report.complain(place, str(error))
    return msgspec.structs.replace(section, **found)


def secret_in(section: type[msgspec.Struct], key: str, file: FilePath) -> str:
    """The secret that a file holds. ValueError: what is wrong with it."""
    read = keys_of(section)[key].read
    assert read is not None, key
    try:
        text = files.read(str(file), _LARGEST).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ValueError(f"cannot be read ({reason}); allowed: a file with the secret") from None
    return str(read(Scalar(text)))


def named(section: msgspec.Struct) -> Iterator[tuple[str, str]]:
    """Keys of a section whose secret stands in a file, with the file's name."""
    for field in section.__struct_fields__:
        if field.endswith("_file") and (name := getattr(section, field)):
            yield field.removesuffix("_file"), name
