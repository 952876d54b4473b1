"""What a listener with TLS demands of clients and tells of them, through the real proxy: their
certificates, names, HSTS, redirects, and connections that are passed on as they are."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.e2e.certificates import Authority
from tests.e2e.origin import Origin
from tests.e2e.raw_http import Client
from tests.e2e.secure import NAME, SecureClient, SecureProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPOOFED = [("Client-Cert", ":c3Bvb2Y=:"), ("X-Forwarded-Client-Cert", "Hash=spoof")]
INNER = "inner.example.com"


@dataclass
class Site:
    proxy: SecureProxy
    origin: Origin
    inner: Origin
    """An instance that TLS is passed through to."""
    clients: Authority
    shown: tuple[Path, Path]
    """A client's certificate and key, signed by that."""

    def showing(self, *files: Path) -> ssl.SSLContext:
        """A client's context with a certificate, or none."""
        return self.proxy.authority.client(*files)

    async def is_refused(self, listener: str, context: ssl.SSLContext) -> bool:
        """A client with this context gets no answer. In TLS 1.3 it has shaken hands by then."""
        try:
            async with await self.proxy.secure(listener, context=context) as client:
                await client.ask("GET", "/s/x", host=NAME)
        except (ssl.SSLError, ConnectionError):
            return True
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("proxy")
    clients = Authority(directory, "clients")
    shown = clients.issue("partner", kind="rsa")
    asked = {"client_ca": str(clients.ca)}
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        tls = clients.server(INNER)
        inner = await stack.enter_async_context(Origin("inner", tls=tls))
        proxy = SecureProxy(
            {
                "services": {
                    "s": {"instances": [origin.instance]},
                    "inner": {"instances": [inner.instance]},
                },
                "routes": [{"path_prefix": "/{service}"}, {"sni": INNER, "service": "inner"}],
            },
            directory,
            listeners={
                "required": {"tls": {**asked, "forward_client_cert": "rfc9440"}},
                "requested": {
                    "tls": {**asked, "client_auth": "request", "forward_client_cert": "xfcc"}
                },
                "passing": {"tls_passthrough": True, "tls": {"unknown_names": "refuse"}},
                "redirecting": {"tls": None, "redirect_to_https": {"except": ["/s/open"]}},
            },
            hsts={"max_age": "1h"},
        )
        await stack.enter_async_context(proxy)
        yield Site(proxy, origin, inner, clients, shown)


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: Site) -> AsyncIterator[Site]:
    running.origin.calls.clear()
    yield running


# -- certificates of clients


async def test_the_instance_is_told_of_the_certificate(site: Site) -> None:
    context = site.showing(*site.shown)
    async with await site.proxy.secure("required", context=context) as client:
        assert (await client.ask("GET", "/s/x", SPOOFED, host=NAME)).status == 200
        session = client.tls.session
    async with await site.proxy.secure("required", context=context, session=session) as client:
        assert (await client.ask("GET", "/s/x", SPOOFED, host=NAME)).status == 200
        assert client.tls.session_reused
    der = ssl.PEM_cert_to_DER_cert(site.shown[0].read_text())
    field = f":{b64encode(der).decode()}:"
    assert [call.head.all("Client-Cert") for call in site.origin.calls] == [[field]] * 2
    assert [call.head.all("X-Forwarded-Client-Cert") for call in site.origin.calls] == [[]] * 2


async def test_the_instance_is_told_in_the_words_of_envoy(site: Site) -> None:
    context = site.showing(*site.shown)
    async with await site.proxy.secure("requested", context=context) as client:
        assert (await client.ask("GET", "/s/x", SPOOFED, host=NAME)).status == 200
    [call] = site.origin.calls
    said = call.head.get("X-Forwarded-Client-Cert") or ""
    assert f'Cert="{quote(site.shown[0].read_text(), safe="")}"' in said
    assert 'Subject="CN=partner"' in said
    assert "spoof" not in said
    assert call.head.all("Client-Cert") == []


async def test_a_client_without_a_certificate_is_served_where_it_is_only_requested(
    site: Site,
) -> None:
    async with await site.proxy.secure("requested") as client:
        assert (await client.ask("GET", "/s/x", SPOOFED, host=NAME)).status == 200
    [call] = site.origin.calls
    assert not [name for name, _ in call.head.fields if "client-cert" in name.lower()]
    assert await site.is_refused("required", site.showing())


@pytest.mark.parametrize("listener", ["required", "requested"])
async def test_a_wrong_certificate_is_refused(site: Site, tmp_path: Path, listener: str) -> None:
    other = Authority(tmp_path, "other").issue("partner")
    expired = site.clients.issue("partner", days=-1, stem="expired")
    assert await site.is_refused(listener, site.showing(*other))
    assert await site.is_refused(listener, site.showing(*expired))
    assert site.origin.calls == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_of_another_listener_is_no_certificate(
    site: Site, version: ssl.TLSVersion
) -> None:
    context = site.proxy.authority.client(minimum_version=version, maximum_version=version)
    async with await site.proxy.secure("https", context=context) as client:
        assert (await client.ask("GET", "/s/x", host=NAME)).status == 200
        session = client.tls.session
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with await site.proxy.secure("required", context=context, session=session) as client:
            await client.ask("GET", "/s/x", host=NAME)
    assert len(site.origin.calls) == 1


async def test_a_host_that_is_not_in_the_certificate_is_misdirected(site: Site) -> None:
    context = site.showing(*site.shown)
    async with await site.proxy.secure("required", context=context) as client:
        assert (await client.ask("GET", "/s/x", host="www.example.org")).status == 421
        assert (await client.ask("GET", "/s/x", host=NAME)).status == 200


# -- browsers


async def test_browsers_are_told_to_use_nothing_but_tls(site: Site) -> None:
    async with await site.proxy.secure() as client:
        for path, status in (("/s/x", 200), ("/nothing", 404)):
            answer = await client.ask("GET", path, host=NAME)
            assert answer.status == status
            assert answer["Strict-Transport-Security"] == "max-age=3600"


async def test_a_plain_listener_sends_clients_to_https(site: Site) -> None:
    async with await Client.connect(site.proxy.ports["redirecting"]) as client:
        answer = await client.ask("POST", "/s/x?q=1", body=b"body", host=NAME)
        assert (answer.status, answer["Location"]) == (308, f"https://{NAME}/s/x?q=1")
        assert (await client.ask("GET", "/s/open", host=NAME)).status == 200


# -- passed through


async def test_a_connection_goes_to_the_instance_that_its_name_says(site: Site) -> None:
    port = site.proxy.ports["passing"]
    inner = site.clients.client()
    async with await SecureClient.connect_to(port, inner, INNER) as client:
        answer = await client.ask("POST", "/x", body=bytes(100_000), host=INNER)
        assert (answer.status, answer["X-Origin"]) == (200, "inner")
        assert answer.body == bytes(100_000)
    async with await site.proxy.secure("passing") as client:
        answer = await client.ask("GET", "/s/x", host=NAME)
        assert (answer.status, answer["X-Origin"]) == (200, "one")
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        await site.proxy.secure("passing", name="nobody.example.com")
