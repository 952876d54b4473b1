"""Keys of `registry:` for etcd."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from proxy.settings.read import Read, parse_text
from proxy.settings.registry import RemoteOptions


def _parse_prefix(text: str) -> str:
    if not text.startswith("/") or not text.endswith("/"):
        raise ValueError("does not begin and end with /")
    return parse_text(text)


_PREFIX: Final = Read(_parse_prefix, "key prefix", "a key prefix such as /services/")


class Options(RemoteOptions, frozen=True, kw_only=True):
    """One etcd cluster, and where in it the instances are."""

    type: ClassVar[str] = "etcd"

    prefix: Annotated[
        str, _PREFIX, "What registered keys begin with; begins and ends with `/`."
    ] = "/services/"
