"""Certificates from a real ACME server, by the real proxy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pebble import HMAC_KEY, KID, Pebble
from tests.e2e.reloading import reload, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

NAME = "www.example.test"


class Site(RunningProxy):
    """A proxy whose certificates come from `pebble`."""

    def __init__(
        self, directory: Path, pebble: Pebble, plain: int, secure: int, *domains: str, **acme: Any
    ) -> None:
        """`plain`, `secure`: its ports; `acme`: further settings."""
        self.pebble = pebble
        self.secure = secure
        tls = {"certificates": [{"acme": True}]}
        super().__init__(
            {
                "listeners": [
                    {"name": "web", "bind": f"127.0.0.1:{plain}", "redirect_to_https": {}},
                    {"name": "https", "bind": f"127.0.0.1:{secure}", "tls": tls},
                ],
                "workers": 2,
                "acme": pebble.acme(*domains, storage=directory / "acme", **acme),
                "routes": [{"service": "none"}],
            },
            directory,
        )

    async def certificate(self, context: ssl.SSLContext, name: str = NAME) -> bytes | None:
        """The certificate that is served for a name; None while there is none."""
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self.secure, ssl=context, server_hostname=name
            )
        except (ssl.SSLError, ConnectionError):
            return None
        writer.close()
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True)

    async def served(self) -> tuple[ssl.SSLContext, bytes]:
        """A context that trusts the server, and the certificate, once there is one."""
        root = await self.pebble.root()
        return root, await eventually(lambda: self.certificate(root), 60, self.log)

    async def standing(self, name: str = NAME) -> dict[str, Any]:
        _, document = await self.get("/api/v1/certificates")
        return next(one for one in document["acme"] if one["name"] == name)


@asynccontextmanager
async def site(
    tmp_path: Path, *domains: str, life: int = 7_776_000, eab: bool = False, **acme: Any
) -> AsyncIterator[Site]:
    """A site for `domains`, by default for `NAME`. See `Pebble`."""
    if eab:
        acme["eab"] = {"kid": KID, "hmac_key": HMAC_KEY}
    plain, secure = free_port(), free_port()
    async with Pebble(tmp_path, http=plain, tls=secure, life=life, eab=eab) as pebble:
        pebble.dns.says(NAME, "127.0.0.1")
        async with Site(tmp_path, pebble, plain, secure, *(domains or [NAME]), **acme) as proxy:
            yield proxy


def modes_below(directory: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in sorted(directory.rglob("*"))]


async def test_a_certificate_is_obtained_by_http_and_kept(tmp_path: Path) -> None:
    async with site(tmp_path) as proxy:
        root, served = await proxy.served()
        # The server's directory, the key of the account, certificates, and the one that there is.
        assert modes_below(tmp_path / "acme") == [0o700, 0o600, 0o700, 0o600]
        standing = await proxy.standing()
        assert (standing["failures"], standing["problem"]) == (0, "")
        _, metrics = await proxy.get("/metrics")
        assert f'fairlead_acme_orders_total{{name="{NAME}",result="issued"}} 1' in metrics
        await proxy.stop()
        # What is kept is served from the first moment, and nothing is ordered.
        await proxy.start()
        assert await proxy.certificate(root) == served
        assert (await proxy.standing())["not_after"] == standing["not_after"]


@pytest.mark.drill
async def test_a_certificate_is_obtained_by_tls(tmp_path: Path) -> None:
    async with site(tmp_path, challenges=["tls-alpn-01"], life=45) as proxy:
        root, first = await proxy.served()

        async def renewed() -> bool:
            # A client is never shown what is for the server's eyes.
            served = await proxy.certificate(root)
            assert served is not None, proxy.log()
            return served != first

        await eventually(renewed, 60, proxy.log)
        _, metrics = await proxy.get("/metrics")
        assert 'fairlead_tls_handshakes_total{listener="https",result="challenge"}' in metrics


@pytest.mark.drill
async def test_a_certificate_is_renewed_while_it_is_served(tmp_path: Path) -> None:
    async with site(tmp_path, life=45) as proxy:
        root, first = await proxy.served()
        seen = [first]

        async def renewed() -> bool:
            served = await proxy.certificate(root)
            assert served is not None, proxy.log()  # Neither gone nor expired.
            if served not in seen:
                seen.append(served)
            return len(seen) == 2

        await eventually(renewed, 60, proxy.log)
        assert (await proxy.standing())["failures"] == 0


async def test_an_account_is_bound_to_one_that_the_operator_knows(tmp_path: Path) -> None:
    async with site(tmp_path, eab=True) as proxy:
        await proxy.served()


async def test_a_name_that_fails_is_told_of_and_harms_no_other(tmp_path: Path) -> None:
    async with site(tmp_path, "blocked.test", "nowhere.test", NAME) as proxy:
        await proxy.served()
        blocked, nowhere = [await proxy.standing(name) for name in ("blocked.test", "nowhere.test")]
        assert blocked["problem"].startswith("rejectedIdentifier: ")
        assert nowhere["problem"].startswith("the authorization is invalid: ")
        assert blocked["failures"] == nowhere["failures"] == 1
        assert blocked["not_after"] is None
        await proxy.logs('"acme_failed"', 2)
        assert proxy.log().count('"acme_failed"') == 2


async def test_a_server_that_is_gone_does_not_keep_the_proxy_from_starting(tmp_path: Path) -> None:
    async with Pebble(tmp_path, http=1) as pebble:
        pass
    async with Site(tmp_path, pebble, free_port(), free_port(), NAME) as proxy:
        await eventually(lambda: "acme_failed" in proxy.log(), 30, proxy.log)
        assert (await proxy.standing())["failures"] == 1


@pytest.mark.drill
async def test_a_reload_adds_names_removes_them_and_turns_it_off_and_on(tmp_path: Path) -> None:
    other = "other.example.test"
    async with site(tmp_path) as proxy:
        root, first = await proxy.served()
        proxy.pebble.dns.says(other, "127.0.0.1")
        acme = proxy.config["acme"]

        async def takes(**changed: Any) -> None:
            rewrite(proxy, changed)
            code, said = await reload(proxy)
            assert (code, "needs a restart" in said) == (0, False), said

        async def names() -> list[str]:
            _, document = await proxy.get("/api/v1/certificates")
            return [one["name"] for one in document["acme"]]

        await takes(acme={**acme, "domains": [other, NAME]})
        # What is there is served on, and not ordered again.
        assert await proxy.certificate(root) == first
        assert await eventually(lambda: proxy.certificate(root, other), 60, proxy.log) != first
        assert await proxy.certificate(root) == first
        await takes(acme={**acme, "domains": [other]})
        assert await names() == [other]
        # Of the names that are left only this one has a certificate.
        assert await proxy.certificate(root) is None
        assert await proxy.certificate(root, other) is not None
        plain = [{**one, "tls": False} for one in proxy.config["listeners"]]
        await takes(acme=False, listeners=plain)
        assert await names() == []
        await takes()
        assert await eventually(lambda: proxy.certificate(root), 20, proxy.log) == first
        assert "acme_failed" not in proxy.log()
