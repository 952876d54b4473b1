"""TLS to instances: who gets it and what they must prove, and contexts, which are made once however
many connections wait for one."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from proxy.engine.tls.client import ClientContexts
from proxy.errors import Refused
from proxy.membership import Instance
from proxy.settings.upstream_tls import UpstreamTls
from tests.support.tls_far_end import authority

POLICY = UpstreamTls(mode="on", ca="ca")
NAMED = {"mode": "on", "server_name": "{service}.{instance}.test", "server_names": ("*.internal",)}


@pytest.mark.parametrize(
    ("settings", "metadata", "name"),
    [
        # A registry cannot switch it off, nor choose any name but those it may.
        ({"mode": "on"}, {}, "10.0.0.1"),
        ({"mode": "on"}, {"scheme": "http"}, "10.0.0.1"),
        ({"mode": "on"}, {"scheme": "http", "server_name": "evil.test"}, "10.0.0.1"),
        (NAMED, {"scheme": "http"}, "users.a.test"),
        (NAMED, {"server_name": "B.internal"}, "B.internal"),
        (NAMED, {"server_name": "evil.test"}, "users.a.test"),
        (NAMED, {"server_name": "a.b.internal"}, "users.a.test"),
        (NAMED, {"server_name": "internal"}, "users.a.test"),
        ({"mode": "on", "server_names": ("b.test",)}, {"server_name": "b.test"}, "b.test"),
        ({"mode": "on", "trust_domain": "d", "ca": "ca"}, {"server_name": "evil.d"}, "users.d"),
        ({"mode": "auto"}, {"scheme": "https"}, "10.0.0.1"),
        ({"mode": "auto"}, {"scheme": "https", "server_name": "b.test"}, "b.test"),
        ({"mode": "auto"}, {"server_name": "b.test"}, None),
        ({"mode": "auto"}, {"scheme": "http"}, None),
        ({"mode": "off"}, {"scheme": "https"}, None),
    ],
)
def test_settings_decide_what_an_instance_must_prove(
    settings: dict[str, Any], metadata: dict[str, str], name: str | None
) -> None:
    instance = Instance(service="users", id="a", address="10.0.0.1", port=443, metadata=metadata)
    assert UpstreamTls(**settings).name_of(instance) == name


@pytest.mark.parametrize("settings", [{"mode": "on"}, {"mode": "auto"}])
def test_the_dot_at_the_end_of_a_name_is_not_in_certificates(settings: dict[str, Any]) -> None:
    metadata = {"scheme": "https"}
    instance = Instance(service="s", id="a", address="A.test.", port=443, metadata=metadata)
    assert UpstreamTls(**settings).name_of(instance) == "A.test"
    named = msgspec.structs.replace(instance, metadata={**metadata, "server_name": "b.test."})
    settings = {**settings, "server_names": ("*.test",)}
    assert UpstreamTls(**settings).name_of(named) == "b.test"


async def test_a_crowd_gets_one_context_and_who_gives_up_takes_it_from_nobody() -> None:
    contexts = ClientContexts(asyncio.get_running_loop())
    contexts.use({"ca": authority()[0]})
    crowd = [asyncio.create_task(contexts.get(POLICY)) for _ in range(50)]
    await asyncio.sleep(0)
    crowd.pop().cancel()
    found = await asyncio.gather(*crowd)
    assert len(set(map(id, found))) == 1
    contexts.use({"ca": authority()[0]})
    assert await contexts.get(POLICY) is not found[0]


async def test_a_file_that_is_not_there_yet_is_asked_for_again() -> None:
    contexts = ClientContexts(asyncio.get_running_loop())
    with pytest.raises(Refused):
        await contexts.get(POLICY)
    contexts.use({"ca": authority()[0]})
    assert await contexts.get(POLICY)
