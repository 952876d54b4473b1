"""Keys of `registry:` for instances in files."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, ClassVar, Self

import msgspec

from proxy.settings.complaints import Report
from proxy.settings.declare import Given
from proxy.settings.read import POSITIVE, TEXT
from proxy.settings.registry import RegistryOptions


class Options(RegistryOptions, frozen=True, kw_only=True):
    """Where the files are."""

    type: ClassVar[str] = "file"

    path: Annotated[
        str,
        TEXT,
        "A YAML or JSON file, or a directory of `*.yaml`, `*.yml` and `*.json`. Required.",
    ] = ""
    interval: Annotated[float, POSITIVE, "How often is looked whether they have changed."] = 2.0

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `RegistryOptions`."""
        return (self.path,)

    @property
    def identity(self) -> tuple[object, ...]:
        """See `RegistryOptions`."""
        return (self.type, self.path)

    def checked(self, given: Given, directory: FilePath, report: Report) -> Self:
        """See `RegistryOptions`."""
        if not self.path and report.sound(given.at("path"), given.at("type")):
            report.complain(given.at("path"), "is missing; allowed: a file or a directory")
        return msgspec.structs.replace(self, path=str(directory / self.path))
