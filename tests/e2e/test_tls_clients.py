"""Other people's TLS, through the real proxy: one connection for several requests, an upload of a
MiB, and, where the client can, a session that is resumed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.e2e.origin import Call, Origin
from tests.e2e.programs import NODE, need, output
from tests.e2e.secure import NAME, SecureProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
VERSIONS = ("1.2", "1.3")
PAGE = b"<!DOCTYPE html><title>page</title><p>" + hashlib.sha256(b"page").hexdigest().encode()


async def _book(call: Call) -> None:
    """The origin: a page, and whatever it is sent."""
    if call.tail == "echo":
        await call.reply(await call.read())
    else:
        await call.reply(PAGE, fields=[("Content-Type", "text/html")])


@dataclass
class Site:
    proxy: SecureProxy
    origin: Origin
    log: Path
    """Of requests."""

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.proxy.https}/s/"

    @property
    def ca(self) -> str:
        """File of the authority."""
        return str(self.proxy.authority.ca)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin(script=_book))
        directory = tmp_path_factory.mktemp("proxy")
        log = directory / "access.log"
        config = {
            "workers": 2,
            "access_log": {"path": str(log)},
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/{service}"}],
        }
        proxy = SecureProxy(config, directory)
        await stack.enter_async_context(proxy)
        yield Site(proxy, origin, log)


@pytest.mark.parametrize("version", VERSIONS)
async def test_curl_fetches_pages_over_one_connection_and_posts(
    site: Site, tmp_path: Path, version: str
) -> None:
    options = ["-sS", "--cacert", site.ca, f"--tlsv{version}", "--tls-max", version]
    shown = ["-o", str(tmp_path / "out"), "-w", "%{http_code} %{num_connects}\n"]
    page = [*options, *shown, site.base + "page"]
    out = await output(need("curl"), *page, "--next", *page, "--next", *page)
    assert out == b"200 1\n200 0\n200 0\n"
    body = hashlib.shake_128(b"curl").digest(MIB)
    upload = ["--data-binary", "@-", site.base + "echo"]
    assert await output(need("curl"), *options, *upload, stdin=body) == body


@pytest.mark.parametrize("version", VERSIONS)
async def test_openssl_resumes(site: Site, version: str, tmp_path: Path) -> None:
    flag = f"-tls{version.replace('.', '_')}"
    options = ["-connect", f"127.0.0.1:{site.proxy.https}", "-CAfile", site.ca, flag]
    options += ["-servername", NAME, "-verify_return_error", "-ign_eof"]
    asked = f"GET /s/page HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
    session = str(tmp_path / "session")
    client = need("openssl"), "s_client"
    first = await output(*client, *options, "-sess_out", session, stdin=asked)
    again = await output(*client, *options, "-sess_in", session, stdin=asked)
    for out, word in ((first, b"New, "), (again, b"Reused, ")):
        assert word + f"TLSv{version}".encode() in out, out
        assert PAGE in out
        assert b"Verify return code: 0 (ok)" in out


async def test_openssl_reconnects_and_resumes_each_time(site: Site) -> None:
    # What it does in TLS 1.3 has come to nothing since tickets come behind the handshake.
    address = f"127.0.0.1:{site.proxy.https}"
    out = await output(
        need("openssl"), "s_client", "-connect", address, "-reconnect", "-tls1_2", stdin=b""
    )  # fmt: skip
    assert len(re.findall(rb"^Reused, TLSv1.2", out, re.MULTILINE)) == 5


async def test_openssl_is_offered_no_early_data_and_no_old_version(site: Site) -> None:
    options = ["-connect", f"127.0.0.1:{site.proxy.https}", "-ign_eof"]
    asked = f"GET /s/page HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
    out = await output(need("openssl"), "s_client", *options, "-tls1_3", stdin=asked)
    assert b"Max Early Data: 0\n" in out
    assert b"Secure Renegotiation IS NOT supported" in out  # There is none in TLS 1.3.
    for old in ("-tls1", "-tls1_1"):
        command = [need("openssl"), "s_client", *options, old, "-cipher", "ALL:@SECLEVEL=0"]
        with pytest.raises(AssertionError, match="protocol version"):
            await output(*command, stdin=b"")


async def test_node_keeps_a_connection_posts_and_resumes(site: Site) -> None:
    out = json.loads(await output(need("node"), str(NODE / "tls.mjs"), site.base, site.ca))
    for version in VERSIONS:
        seen = out[f"TLSv{version}"]
        assert seen["statuses"] == [200] * 5
        assert seen["versions"] == [f"TLSv{version}"]
        assert seen["reused"] == 4
        assert seen["resumed"] == [200, True]
        assert seen["posted"] == [200, True]


@pytest.mark.drill
async def test_java_keeps_a_connection_and_posts(site: Site) -> None:
    source = str(NODE.parent / "java" / "Client.java")
    before = await site.proxy.handshakes()
    out = await output(need("java"), source, site.base, site.ca, within=90)
    after = await site.proxy.handshakes()
    assert after["full"] - before.get("full", 0) == 2  # One connection for each version.
    for version in VERSIONS:
        assert out.decode().count(f"TLSv{version} GET 200 {len(PAGE)} HTTP_2\n") == 5
        assert f"TLSv{version} POST 200 true\n" in out.decode()


@pytest.mark.drill
async def test_go_keeps_a_connection_posts_and_resumes(site: Site) -> None:
    source = str(NODE.parent / "go" / "client.go")
    out = await output(need("go"), "run", source, site.base, site.ca, within=180)
    for version in VERSIONS:
        lines = [line for line in out.decode().splitlines() if line.startswith(f"TLS {version} ")]
        spoken = "HTTP/2.0" if version == "1.3" else "HTTP/1.1"
        get = f"TLS {version} GET 200 {len(PAGE)} {spoken}"
        assert lines[:3] == [f"{get} false"] * 3
        assert lines[3:6] == [f"{get} true"] * 3
        assert lines[6:] == [f"TLS {version} POST 200 true"]


@pytest.mark.drill
async def test_chromium_shows_a_page(site: Site, tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(site.proxy.cert.read_bytes())
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    out = await output(
        need("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
        f"--user-data-dir={tmp_path}", f"--ignore-certificate-errors-spki-list={digest}",
        site.base + "page", within=90,
    )  # fmt: skip
    assert PAGE[-64:] in out
    assert "Chrom" in (site.origin.calls[-1].head.get("User-Agent") or "")
    lines = site.log.read_text().splitlines()
    assert "HTTP/2.0" in {one["protocol"] for one in map(json.loads, lines)}
