"""Other people's clients of HTTP/2, through the real proxy to an instance of HTTP/1.1."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.e2e.changing import command
from tests.e2e.origin import Call, Origin
from tests.e2e.programs import NODE, need, output
from tests.e2e.secure import SecureProxy
from tests.support.processes import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
PAGE = b"page"
LARGE = hashlib.shake_128(b"large").digest(4 * MIB)


async def _site(call: Call) -> None:
    if call.tail == "echo":
        await call.reply(await call.read())
    elif call.tail == "large":
        await call.reply(LARGE)
    else:
        await call.reply(PAGE)


def config(origin: Origin, **more: object) -> dict[str, object]:
    return {
        "workers": 2,
        "services": {"s": {"instances": [origin.instance]}},
        "routes": [{"path_prefix": "/{service}"}],
        **more,
    }


@dataclass
class Site:
    proxy: SecureProxy
    origin: Origin
    clear: str
    secure: str
    ca: str

    async def faults(self, code: str) -> int:
        """How many requests ended so, as scraped."""
        _, text = await self.proxy.get("/metrics")
        found = re.findall(rf'fairlead_proxy_errors_total{{.*fault="{code}".*}} (\d+)', text)
        return sum(map(int, found))

    @property
    def bases(self) -> dict[str, tuple[str, str]]:
        """Of each kind of connection: where it leads, and how curl is told."""
        return {
            "clear": (self.clear, "--http2-prior-knowledge"),
            "tls": (self.secure, "--http2"),
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin(script=_site))
        proxy = SecureProxy(
            config(origin),
            tmp_path_factory.mktemp("proxy"),
            listeners={"clear": {"tls": None, "http2": True}},
        )
        await stack.enter_async_context(proxy)
        yield Site(
            proxy,
            origin,
            f"http://127.0.0.1:{proxy.ports['clear']}/s/",
            f"https://127.0.0.1:{proxy.https}/s/",
            str(proxy.authority.ca),
        )


@pytest.mark.parametrize("kind", ["clear", "tls"])
async def test_curl_fetches_posts_and_downloads(site: Site, kind: str, tmp_path: Path) -> None:
    base, flag = site.bases[kind]
    options = ["-sS", flag, "--cacert", site.ca]
    shown = ["-o", str(tmp_path / "out"), "-w", "%{http_code} %{http_version} %{num_connects}\n"]
    page = [*options, *shown, base + "page"]
    if kind == "tls":  # With prior knowledge curl 7.88 fails at the second one, of any server.
        assert await output(need("curl"), *page, "--next", *page) == b"200 2 1\n200 2 0\n"
    assert await output(need("curl"), *page) == b"200 2 1\n"
    body = hashlib.shake_128(b"curl").digest(MIB)
    upload = [*options, "--data-binary", "@-", base + "echo"]
    assert await output(need("curl"), *upload, stdin=body) == body
    assert await output(need("curl"), *options, base + "large") == LARGE


async def test_an_upgrade_to_h2c_is_not_taken(site: Site) -> None:
    shown = ["-w", " %{http_version}", "--http2", site.clear + "page"]
    assert await output(need("curl"), "-sS", *shown) == PAGE + b" 1.1"


@pytest.mark.parametrize("kind", ["clear", "tls"])
async def test_httpx_has_many_requests_on_one_connection(site: Site, kind: str) -> None:
    base, _ = site.bases[kind]
    verify = site.proxy.authority.client()
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(http1=False, http2=True, verify=verify, limits=limits) as client:
        answers = await asyncio.gather(
            *(client.post(base + "echo", content=b"%d" % number) for number in range(100))
        )
    assert [answer.content for answer in answers] == [b"%d" % number for number in range(100)]
    assert {answer.http_version for answer in answers} == {"HTTP/2"}


@pytest.mark.parametrize("kind", ["clear", "tls"])
async def test_node_asks_for_many_things_on_one_connection(site: Site, kind: str) -> None:
    base, _ = site.bases[kind]
    ca = [site.ca] if kind == "tls" else []
    out = json.loads(await output(need("node"), str(NODE / "h2_client.mjs"), base, *ca))
    page, sent, large = (hashlib.sha256(one).hexdigest() for one in (PAGE, MIB * b"n", LARGE))
    assert out == [[200, page], [200, sent]] * 4 + [[200, large]]


async def test_nghttp_reads_pages(site: Site) -> None:
    urls = [site.secure + "page", site.secure + "large", site.secure + "other"]
    out = await output(need("nghttp"), "--no-verify-peer", *urls)
    assert len(out) == 2 * len(PAGE) + len(LARGE)


@pytest.mark.parametrize("kind", ["clear", "tls"])
@pytest.mark.parametrize(("connections", "streams"), [(4, 32), (16, 1)])
async def test_h2load_sees_no_error(site: Site, kind: str, connections: int, streams: int) -> None:
    base, _ = site.bases[kind]
    out = await _h2load(base + "page", "-n", "2000", f"-c{connections}", f"-m{streams}")
    assert out == (2000, 0, 0)


async def test_clients_lose_no_request_when_workers_are_replaced(site: Site) -> None:
    """Each is told to go, in time, and goes on over another connection."""
    crowd = await asyncio.create_subprocess_exec(
        need("node"), str(NODE / "h2_crowd.mjs"), site.clear + "page",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        seen = site.origin.calls
        before = len(seen)
        await eventually(lambda: len(seen) > before + 500, 20, "they ask")
        code, said = await command(site.proxy, "restart-workers")
        assert code == 0, said
        before = len(seen)
        await eventually(lambda: len(seen) > before + 500, 20, "they ask the new workers")
        out, _ = await asyncio.wait_for(crowd.communicate(b""), 20)
    finally:
        if crowd.returncode is None:
            crowd.kill()
            await crowd.wait()
    found = json.loads(out)
    assert found["failures"] == []
    assert await site.faults("too_many_streams") == 0
    assert found["connections"] >= 8
    assert found["answers"] > 1000


async def _h2load(url: str, *options: str) -> tuple[int, int, int]:
    """Requests that succeeded, that failed, and that were not answered."""
    said = (await output(need("h2load"), *options, url, within=60)).decode()
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    assert found is not None, said
    return int(found[1]), int(found[2]), int(found[3])
