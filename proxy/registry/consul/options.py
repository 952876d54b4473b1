"""Keys of `registry:` for Consul."""

from __future__ import annotations

from typing import Annotated, ClassVar

from proxy.settings.read import SECRET, TEXT, choice, integer
from proxy.settings.registry import RemoteOptions, TokenFile


class AgentOptions(RemoteOptions, frozen=True, kw_only=True):
    """How one datacenter of Consul is asked."""

    token: Annotated[str, SECRET, "ACL token; [what it needs](registries.md#consul)."] = ""
    token_file: TokenFile = None
    datacenter: Annotated[str, TEXT, "Datacenter to ask for; else that of the agent."] = ""


class Options(AgentOptions, frozen=True, kw_only=True):
    """One datacenter of Consul, and whom it is asked for."""

    type: ClassVar[str] = "consul"

    tag: Annotated[str, TEXT, "Only instances with this tag are taken; empty = all."] = ""
    address: Annotated[
        str,
        choice(("auto", "lan", "wan"), "an address"),
        "Which address of an instance is used: the one it registered or else its node's (`auto`),"
        " or the tagged `lan` or `wan` one, of itself or else of its node, if there is one.",
    ] = "auto"
    streams: Annotated[
        int,
        integer(1, 5000),
        "Services that are followed at the same time, by a request each; further ones are asked in"
        " turn, ten a second. Agents take 200 connections from one address unless"
        " `http_max_conns_per_client` says otherwise, and a proxy that is upgraded needs twice as"
        " many for a moment.",
    ] = 80
