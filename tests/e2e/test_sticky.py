"""Cookies of sticky clients: good over a reload, a restart and in another proxy of one secret."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.origin import origins
from tests.e2e.raw_http import Client
from tests.e2e.reloading import name, reload, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

Said = tuple[bytes, str]
"""The instance that answered, and the cookie that came with it."""


async def said(proxy: RunningProxy, cookie: str = "") -> Said:
    async with await Client.connect(proxy.port) as client:
        answer = await client.ask("GET", "/", [("Cookie", cookie)] if cookie else [])
    assert answer.status == 200
    return answer.body, (answer["Set-Cookie"] or "").partition(";")[0]


async def holds(proxy: RunningProxy, cookie: str, instance: bytes) -> bool:
    """Every worker knows the cookie: connections come to any of them."""
    return {await said(proxy, cookie) for _ in range(8)} == {(instance, "")}


async def test_a_cookie_is_good_while_the_secret_is_the_same(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")
    async with origins("one", "two", "three", script=name) as instances:
        service = {
            "instances": [one.instance for one in instances],
            "sticky": {"secret_file": "secret"},
        }
        config = {
            "workers": 2,
            "services": {"users": service},
            "routes": [{"path_prefix": "/", "service": "users"}],
        }
        async with (
            RunningProxy(config, tmp_path) as proxy,
            RunningProxy(config, tmp_path) as other,
        ):
            instance, cookie = await said(proxy)
            assert await holds(proxy, cookie, instance)
            assert await holds(other, cookie, instance)

            rewrite(proxy, {"services": {"users": {**service, "max_inflight": 7}}})
            code, told = await reload(proxy)
            assert code == 0
            assert "max_inflight" in told
            assert await holds(proxy, cookie, instance)

            await other.stop()
            await other.start()
            assert await holds(other, cookie, instance)

            secret.write_text("short")
            refused = '"event": "config_not_reloaded"'
            await eventually(lambda: refused in proxy.log(), 10, "the complaint")
            assert await holds(proxy, cookie, instance)

            # An edit that is not to be read yet, whether anything was reloaded before or not.
            for one in (proxy, other):
                rewrite(one, {"services": {"users": {**service, "max_inflight": 8}}})
            new = tmp_path / "new"
            new.write_text("fedcba9876543210")
            new.rename(secret)
            for one in (proxy, other):
                await eventually(lambda one=one: '"by": "secret"' in one.log(), 10, "the secret")
                assert (await said(one, cookie))[1]
                assert "→ 8" not in one.log()
            instance, cookie = await said(proxy)
            assert await holds(proxy, cookie, instance)
            assert await holds(other, cookie, instance)
