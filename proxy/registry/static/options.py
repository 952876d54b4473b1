"""Keys of `registry:` for a proxy that looks nothing up: none."""

from __future__ import annotations

from typing import ClassVar

from proxy.settings.registry import RegistryOptions


class Options(RegistryOptions, frozen=True, kw_only=True):
    """No keys of its own."""

    type: ClassVar[str] = "static"
