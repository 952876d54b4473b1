"""Keys of `registry:` for etcd."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from proxy.registry.formats.layout import FORMATS
from proxy.settings.read import Read, choice, parse_text
from proxy.settings.registry import RemoteOptions

_PREFIX: Final = Read(parse_text, "key prefix", "a key prefix such as /services/")


class Options(RemoteOptions, frozen=True, kw_only=True):
    """One etcd cluster, and where in it the instances are."""

    type: ClassVar[str] = "etcd"

    prefix: Annotated[
        str,
        _PREFIX,
        "What registered keys begin with, also nothing; a letter or digit at its end is followed"
        " by a `/`.",
    ] = "/services/"
    format: Annotated[
        str,
        choice(FORMATS, "a format"),
        "How [keys and values are laid out](registries.md#formats): `auto` tells it by each value;"
        f" {', '.join(f'`{name}`' for name in FORMATS[1:])}.",
    ] = "auto"
