"""Files of TLS to instances that change while connections are there."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.messages import CertificatePair, PoolNode, Pools, PoolSnapshot, UpstreamFiles
from proxy.settings.upstream_tls import UpstreamTls
from proxy.tls.contexts import ServerPolicy, server_context
from tests.support.certificates import UNREADABLE, Authority
from tests.wire.conftest import making
from tests.wire.scenes import GET, answered, asked, served


@pytest.fixture
def make() -> Iterator[Any]:
    yield from making(True)


def test_new_files_are_for_new_connections(make: Any) -> None:
    wire = make()
    kept = served(wire)
    contents = {"ca": Authority("another").ca}
    wire.worker.on_message(UpstreamFiles(generation=2, contents=contents))
    client = wire.client()
    client.send(GET)
    kept.take()
    answered(client, kept)
    kept.eof()
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):  # The instance is told.
        client.send(GET)
    wire.accepted()
    wire.settle()
    assert b"error=tls_certificate_error;" in client.take()


def test_a_session_under_another_name_does_not_vouch_for_a_new_one(make: Any) -> None:
    wire = make()
    client, instance = asked(wire)
    node = wire.node()
    named = PoolNode(node.key, "a", *wire.address("a"), 1, "ready", 1, server_name="other.test")
    wire.worker.on_message(Pools(seq=2, snapshots=(PoolSnapshot("s", 2, (named,)),)))
    wire.settle()
    answered(client, instance)  # Its first word, with which a session is kept.
    with pytest.raises(ssl.SSLError, match="BAD_CERTIFICATE"):
        client.send(GET)
    wire.accepted()
    wire.settle()
    assert b"error=tls_certificate_error;" in client.take()


def test_an_instance_whose_certificate_cannot_be_read_proves_to_be_no_service(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = Authority("odd")
    odd = signs.issue(common_name="s", extension=UNREADABLE)
    shows = server_context([CertificatePair(odd.cert, odd.key, (), "ec")], ServerPolicy())
    monkeypatch.setattr("tests.support.wire.server_side", lambda *_: shows)
    named = UpstreamTls(mode="on", ca="ca", trust_domain="mesh.local")
    monkeypatch.setattr("tests.support.wire.TO_INSTANCES", named)
    wire = make()
    wire.worker.on_message(UpstreamFiles(generation=2, contents={"ca": signs.ca}))
    client = wire.client()
    client.send(GET)
    wire.accepted()
    assert b"error=tls_certificate_error;" in client.take()


@pytest.mark.parametrize("name", ["a..b", "a\0b", ".a", "ü" * 80])
def test_a_name_that_nobody_could_be_asked_for_is_the_fault_of_the_instance(
    make: Any, name: str
) -> None:
    wire = make()
    node = wire.node()
    named = PoolNode(node.key, "a", *wire.address("a"), 1, "ready", 1, server_name=name)
    wire.worker.on_message(Pools(seq=2, snapshots=(PoolSnapshot("s", 2, (named,)),)))
    client = wire.client()
    client.send(GET)
    client.expect_problem(502, "tls_failed")
