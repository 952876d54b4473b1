"""What scanners find at a listener with TLS: nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest
import pytest_asyncio

from tests.e2e.origin import Call, Origin
from tests.e2e.programs import need, output
from tests.e2e.secure import NAME, SecureProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

OFFER = Path(__file__).parent / "tls_offer.txt"
FINDINGS = Path(__file__).parent / "testssl_findings.txt"
HARMLESS = {"OK", "INFO", "WARN"}
"""Severities of testssl.sh: `WARN` is about what it could not try."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureProxy]:
    directory = tmp_path_factory.mktemp("proxy")

    async def answer(call: Call) -> None:
        await call.reply(b"page", fields=[("X-Content-Type-Options", "nosniff")])

    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin(script=answer))
        pairs = [
            {"cert": str(directory / f"{kind}.crt"), "key": str(directory / f"{kind}.key")}
            for kind in ("ec", "rsa")
        ]
        proxy = SecureProxy(
            {
                "services": {"s": {"instances": [origin.instance]}},
                "routes": [{"path_prefix": "/", "service": "s"}],
            },
            directory,
            tls={"certificates": pairs},
            hsts={"max_age": "8760h"},
        )
        for kind in ("ec", "rsa"):
            # As those have it that real authorities sign: what they find of it is not about us.
            proxy.authority.issue(
                NAME, "127.0.0.1", kind=kind, days=90, stem=kind, revoked_at="http://ca.test/crl"
            )
        yield await stack.enter_async_context(proxy)


async def test_the_offer_is_what_it_was(proxy: SecureProxy) -> None:
    report = await output(
        need("sslscan"), "--xml=-", f"--sni-name={NAME}", f"127.0.0.1:{proxy.https}"
    )
    [found] = ElementTree.fromstring(report).iter("ssltest")
    seen = {
        f"protocol {one.get('type', '').upper()}v{one.get('version')}".replace("TLSV", "TLSv")
        for one in found.iter("protocol")
        if one.get("enabled") == "1"
    }
    for one in found.iter("cipher"):
        seen.add(f"cipher {one.get('sslversion')} {one.get('cipher')}")
    for one in found.iter("group"):
        # Only where OpenSSL has it.
        if one.get("name") != "X25519MLKEM768":
            seen.add(f"group {one.get('sslversion')} {one.get('name')}")
    lines = OFFER.read_text().splitlines()
    assert sorted(seen) == sorted(line for line in lines if not line.startswith("#"))
    renegotiation = found.find("renegotiation")
    assert renegotiation is not None
    assert renegotiation.get("supported") == "0"
    assert {one.get("vulnerable") for one in found.iter("heartbleed")} == {"0"}


@pytest.mark.drill
@pytest.mark.timeout(420)
async def test_testssl_finds_nothing(proxy: SecureProxy, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    # Protocols, ciphers, forward secrecy, preferences, certificates, fields of answers, attacks. It
    # counts in its status what it could not try: on a busy machine resumption in TLS 1.3, since
    # its client is gone before there is a ticket.
    what = ["-p", "-s", "-f", "-P", "-S", "-h", "-U"]
    await output(
        need("testssl"), "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none",
        f"--add-ca={proxy.authority.ca}", "--jsonfile", str(found), *what, "--ip", "127.0.0.1",
        f"127.0.0.1:{proxy.https}", within=400, statuses=range(10),
    )  # fmt: skip
    findings = json.loads(found.read_text())
    assert findings[-1]["id"] == "scanTime"
    assert [one for one in findings if one["severity"] not in HARMLESS] == []
    said = {one["id"]: one["finding"] for one in findings}
    lines = [line for line in FINDINGS.read_text().splitlines() if not line.startswith("#")]
    kept = dict(line.split(": ", 1) for line in lines)
    known = said.keys() & kept.keys()  # Other versions of it have other names for some.
    assert len(known) >= 30
    assert {one: said[one] for one in known} == {one: kept[one] for one in known}
