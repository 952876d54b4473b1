"""Keys of `registry:` for the keys and values of Consul."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from proxy.registry.consul.options import AgentOptions
from proxy.registry.formats.layout import AUTO, FORMATS
from proxy.settings.read import Read, choice, parse_text


def _parse_prefix(text: str) -> str:
    prefix = parse_text(text)
    if not prefix or prefix.startswith("/"):
        raise ValueError("is empty, or begins with a slash, as no key of Consul does")
    return prefix


_PREFIX: Final = Read(_parse_prefix, "key prefix", "a key prefix such as services/")


class Options(AgentOptions, frozen=True, kw_only=True):
    """One datacenter of Consul, and where among its keys the instances are."""

    type: ClassVar[str] = "consul-kv"
    root: ClassVar[str] = ""

    prefix: Annotated[
        str,
        _PREFIX,
        "What registered keys begin with; a letter or digit at its end is followed by a `/`.",
    ] = "services/"
    format: Annotated[
        str,
        choice(FORMATS, "a format"),
        "How [keys and values are laid out](registries.md#formats), as for `etcd`.",
    ] = AUTO
