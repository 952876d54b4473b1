"""Filters that ask other servers, in the real proxy: `forward_auth`, `jwt` with keys of a URL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import time
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.origin import Call, Origin
from tests.e2e.raw_http import Answer, Client, ask
from tests.e2e.reloading import reload, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def decide(call: Call) -> None:
    """The server that decides: by the path, as it is told of it."""
    path = call.head.get("X-Forwarded-Uri") or call.target
    if path.startswith("/hang"):
        await asyncio.sleep(60)
    elif path.startswith("/login"):
        fields = [("Location", "/in?a=b"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        await call.reply(b"go there", 302, fields)
    elif path.startswith("/large"):
        await call.reply(b"x" * 100_000, 403)
    elif path.startswith("/cut"):
        call.abort()
    elif path.startswith("/far"):
        await call.reply(b"", 302, [("Location", "/Ł".encode().decode("latin-1"))])
    elif "Zoë Łęk".encode().decode("latin-1") in (call.head.get("Cookie") or ""):
        await call.reply(b"", 200, [("X-User", "Zoë Łęk".encode().decode("latin-1"))])
    elif path.startswith("/silent"):
        await call.reply(b"", 204)
    elif call.head.get("Authorization") == "Bearer ann" or "ann" in (call.head.get("Cookie") or ""):
        await call.reply(b"", 200, [("X-User", "ann"), ("X-Other", "1")])
    else:
        await call.reply(b"no", 401, [("WWW-Authenticate", "Form")])


@dataclass
class Site:
    """A proxy in front of an instance, and the server that it asks."""

    proxy: RunningProxy
    instance: Origin
    auth: Origin
    keys: Origin

    async def ask(self, line: str, *fields: str, body: bytes = b"") -> Answer:
        method, _, target = line.partition(" ")
        pairs = [(name, value) for name, _, value in (one.partition(": ") for one in fields)]
        return await ask(self.proxy.port, method, target, pairs, body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("filters")
    async with Origin("one") as one, Origin("auth", decide) as auth, Origin("keys") as keys:
        verify = {
            "url": f"http://127.0.0.1:{auth.port}/verify",
            "copy": ["X-User"],
            "timeout": "2s",
        }
        nobody = {"url": f"http://127.0.0.1:{free_port()}/", "copy": ["X-User"]}
        tokens = {
            "jwks_url": f"http://127.0.0.1:{keys.port}/keys",
            "algorithms": ["ES256"],
            "claims_to_headers": {"sub": "X-User"},
        }
        hung = {**tokens, "jwks_url": f"http://127.0.0.1:{auth.port}/hang", "timeout": "1s"}
        own = {**verify, "copy": ["Authorization"]}
        user = {**verify, "url": f"http://fair:lead@127.0.0.1:{auth.port}/verify"}
        config = {
            "filters": {"login": {"forward_auth": verify}, "tokens": {"jwt": tokens}},
            "services": {"s": {"instances": [one.instance]}},
            "routes": [
                {"path_prefix": "/down", "service": "s", "filters": [{"forward_auth": nobody}]},
                {"path_prefix": "/token", "service": "s", "filters": ["tokens"]},
                {"path_prefix": "/hung", "service": "s", "filters": [{"jwt": hung}]},
                {"path_prefix": "/open", "service": "s"},
                {"path_prefix": "/own", "service": "s", "filters": [{"forward_auth": own}]},
                {"path_prefix": "/user", "service": "s", "filters": [{"forward_auth": user}]},
                {"path_prefix": "/cut-off", "strip_prefix": True, "service": "s",
                 "filters": ["login"]},
                {"path_prefix": "/", "service": "s", "filters": ["login"]},
            ],
        }  # fmt: skip
        async with RunningProxy(config, directory) as proxy:
            yield Site(proxy, one, auth, keys)


ANN = "Authorization: Bearer ann"


@pytest.mark.parametrize("credentials", [ANN, "Cookie: s=ann"])
async def test_a_request_that_is_allowed_goes_on_with_what_was_copied(
    site: Site, credentials: str
) -> None:
    answer = await site.ask("GET /x?y=1", credentials, "X-User: root", "X.User: root", "X-Evil: 1")
    assert answer.status == 200
    question, got = site.auth.calls[-1], site.instance.calls[-1]
    assert (question.method, question.target) == ("GET", "/verify")
    assert question.head.get("X-Forwarded-Method") == "GET"
    assert question.head.get("X-Forwarded-Uri") == "/x?y=1"
    assert question.head.get("X-Forwarded-Host") == "test"
    assert question.head.get("X-Forwarded-For") == "127.0.0.1"
    assert question.head.get("X-Evil") is None
    assert got.head.all("X-User") == ["ann"]
    assert got.head.get("X.User") is None
    assert got.head.get("X-Other") is None


async def test_a_proof_that_is_copied_is_asked_with_first(site: Site) -> None:
    assert (await site.ask("GET /own", ANN)).status == 200
    assert site.auth.calls[-1].head.get("Authorization") == "Bearer ann"
    assert site.instance.calls[-1].head.get("Authorization") is None
    assert (await site.ask("GET /open", ANN)).status == 200
    assert site.instance.calls[-1].head.get("Authorization") == "Bearer ann"


@pytest.mark.parametrize("fields", [(), (ANN,)])
async def test_a_user_in_the_url_takes_the_place_of_the_clients_proof(
    site: Site, fields: tuple[str, ...]
) -> None:
    assert (await site.ask("GET /user", "Cookie: s=ann", *fields)).status == 200
    assert site.auth.calls[-1].head.all("Authorization") == ["Basic ZmFpcjpsZWFk"]
    assert (await site.ask("GET /user", *fields)).status == 401


async def test_a_body_is_for_the_instance_alone(site: Site) -> None:
    answer = await site.ask("POST /x", ANN, body=b"body")
    assert answer.status == 200
    assert site.auth.calls[-1].head.get("Content-Length") is None
    assert site.auth.calls[-1].head.get("X-Forwarded-Method") == "POST"
    assert site.instance.calls[-1].body == b"body"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/a/../b", "/b"),
        ("/%61", "/a"),
        ("/cut-off/x", "/x"),
        ("//silent", "//silent"),
    ],
)
async def test_the_path_is_told_as_the_instance_gets_it(site: Site, path: str, told: str) -> None:
    answer = await site.ask(f"GET {path}", ANN)
    assert site.auth.calls[-1].head.get("X-Forwarded-Uri") == told
    assert answer.status == 200
    assert site.instance.calls[-1].target == told


async def test_another_answer_is_relayed(site: Site) -> None:
    before = len(site.instance.calls)
    answer = await site.ask("GET /x", "X-User: root")
    assert (answer.status, answer.body, answer["WWW-Authenticate"]) == (401, b"no", "Form")
    answer = await site.ask("GET /login")
    assert (answer.status, answer.body, answer["Location"]) == (302, b"go there", "/in?a=b")
    assert answer.head.all("Set-Cookie") == ["a=1", "b=2"]
    assert len(site.instance.calls) == before


async def test_bytes_that_are_no_ascii_stay_the_same(site: Site) -> None:
    zoe = "Zoë Łęk".encode().decode("latin-1")
    assert (await site.ask("GET /x", f"Cookie: name={zoe}")).status == 200
    assert site.instance.calls[-1].head.all("X-User") == [zoe]
    assert (await site.ask("GET /far"))["Location"] == "/Ł".encode().decode("latin-1")


@pytest.mark.parametrize("path", ["/down", "/hang", "/cut", "/large"])
async def test_a_server_that_cannot_decide_lets_nobody_pass(site: Site, path: str) -> None:
    before = len(site.instance.calls)
    answer = await site.ask(f"GET {path}", ANN)
    assert answer.status == 503
    assert json.loads(answer.body)["code"] == "auth_unavailable"
    assert len(site.instance.calls) == before


async def test_a_copied_field_is_nobodys_to_set_also_where_nobody_is_asked(site: Site) -> None:
    for path in ("/open", "/silent"):
        answer = await site.ask(f"GET {path}", "X-User: root", "X_User: root", "X.User: root")
        assert answer.status == 200
        assert "root" not in str(site.instance.calls[-1].head.fields)


async def test_keys_of_a_url_are_rotated(site: Site) -> None:
    first, second = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    published: list[tuple[str, Any]] = []

    async def publish(call: Call) -> None:
        algorithm = jwt.algorithms.ECAlgorithm
        found = [{**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": id}
                 for id, key in published]  # fmt: skip
        await call.reply(json.dumps({"keys": found}).encode())

    def bearer(id: str, key: Any) -> str:
        claims = {"sub": id, "exp": time() + 3600}
        return f"Authorization: Bearer {jwt.encode(claims, key, 'ES256', {'kid': id})}"

    site.keys.script = publish
    assert (await site.ask("GET /token", bearer("a", first))).status == 503
    published.append(("a", first))

    async def passes(id: str, key: Any) -> bool:
        return (await site.ask("GET /token", bearer(id, key))).status == 200

    await eventually(lambda: passes("a", first), within=30)
    assert site.instance.calls[-1].head.get("X-User") == "a"
    published[:] = [("b", second)]
    await eventually(lambda: passes("b", second), within=30)
    assert (await site.ask("GET /token", bearer("a", first))).status == 401


async def test_keys_that_never_come_let_nobody_pass_and_hold_up_nobody_else(site: Site) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode({"sub": "ann", "exp": time() + 3600}, key, "ES256")
    before = len(site.instance.calls)
    asking = asyncio.create_task(site.ask("GET /hung", f"Authorization: Bearer {token}"))
    assert (await site.ask("GET /open")).status == 200
    answer = await asking
    assert answer.status == 503
    assert json.loads(answer.body)["code"] == "auth_unavailable"
    assert [call.target for call in site.instance.calls[before:]] == ["/open"]
    assert "/hang" in [call.target for call in site.auth.calls]


async def test_a_reload_changes_filters_and_leaves_connections_open(site: Site) -> None:
    proxy = site.proxy
    async with await Client.connect(proxy.port) as client:
        assert (await client.ask("GET", "/open")).status == 200
        filters = {**proxy.config["filters"], "nobody": {"deny": ["0.0.0.0/0", "::/0"]}}
        routes = [{**route, "filters": ["nobody"]} for route in proxy.config["routes"]]
        rewrite(proxy, {"filters": filters, "routes": routes})
        code, said = await reload(proxy)
        assert code == 0, said
        assert (await client.ask("GET", "/open")).status == 403
        code, document = await proxy.get("/api/v1/explain?method=GET&url=/open")
        assert (code, document["filters"]) == (200, ["nobody"])
        rewrite(proxy, {"filters": {"nobody": {"denny": []}}})
        code, said = await reload(proxy)
        assert code == 2
        assert "filters.nobody.denny" in said
        assert (await client.ask("GET", "/open")).status == 403
        rewrite(proxy, {})
        assert (await reload(proxy))[0] == 0
        assert (await client.ask("GET", "/open")).status == 200
