"""The same site by Fairlead and by a peer: `peer_configs.py` has what it tells the latter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.origin import Call, Origin, origins
from tests.e2e.peer_configs import CONFIGURATIONS, command_of
from tests.e2e.raw_http import Answer, ask
from tests.e2e.running import RunningProxy
from tests.support.processes import AwaitedProcess, eventually, free_port, listens

HASH = bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()
SORRY = "<p>Sorry.\n"
PROSE = b"All work and no play makes Jack a dull boy. " * 100
SHARE = 0.2
PAGE = "https://app.example"
KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


async def script(call: Call) -> None:
    """An instance of all that is asked here."""
    path = call.target.partition("?")[0]
    if path == "/sorry.html":
        await call.reply(SORRY.encode(), 200, [("Content-Type", "text/html")])
        return
    if path == "/verify":
        known = call.head.get("Authorization") == "Bearer ann"
        await call.reply(b"" if known else b"who?", 200 if known else 401, [("X-User", "ann")])
        return
    if path.endswith("/login"):
        fields = [("Location", "/in?a=b"), ("Set-Cookie", "sid=1; Path=/; HttpOnly")]
        await call.reply(b"", 302, fields)
    elif "/prose" in path:
        fields = [("Content-Type", "text/plain"), ("ETag", '"e1"')]
        if path.endswith("/kept"):
            fields.append(("Cache-Control", "no-transform"))
        if path.endswith("/coded"):
            fields.append(("Content-Encoding", "br"))
        await call.reply(PROSE, 200, fields)
    else:
        told = {
            "name": call.origin.name,
            "path": call.target,
            "fields": [(name.lower(), value) for name, value in call.head.fields],
        }
        await call.reply(json.dumps(told).encode(), 200, [("Content-Type", "application/json")])


async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An instance that answers a request with the PROXY header in front of it."""
    line = await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(line) + line)
    await reader.read()
    writer.close()


async def say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An instance that says the PROXY header and all else that it hears, and at the end `bye`."""
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.write(b"bye")
    writer.close()


def fairlead(one: Origin, two: Origin, directory: Path, ports: Mapping[str, int]) -> dict[str, Any]:
    def to(*instances: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"instances": list(instances), **more}

    def at(name: str, **more: Any) -> dict[str, Any]:
        return to({"id": name, "address": "127.0.0.1", "port": ports[name]}, **more)

    sorry = {"error_pages": {"statuses": [502, 503, 504], "file": str(directory / "sorry.html")}}
    limit = {"rate_limit": {"requests": 1, "per": "60s", "burst": 3}}
    token = {
        "jwks_file": "keys.json",
        "algorithms": ["ES256"],
        "claims_to_headers": {"sub": "X-User"},
    }
    pages = {
        "origins": [PAGE],
        "methods": ["GET", "PUT"],
        "headers": ["X-Token"],
        "expose": ["X-Total"],
        "credentials": True,
        "max_age": "10m",
    }
    filtered = {
        "near": {"allow": ["127.0.0.0/8"]},
        "far": {"allow": ["10.0.0.0/8"]},
        "banned": {"deny": ["127.0.0.0/8"]},
        "token": {"jwt": token},
        "pages": {"cors": pages},
    }
    return {
        "listeners": [
            {"name": "web", "bind": f"127.0.0.1:{ports['web']}"},
            {"name": "tcp", "bind": f"127.0.0.1:{ports['ours']}", "mode_tcp": "passed"},
        ],
        "services": {
            "one": to(one.instance),
            "two": to(two.instance),
            "copied": to(one.instance, mirror={"service": "two"}),
            "dead": at("dead"),
            "spoken": at("spoken", send_proxy_protocol="v1"),
            "passed": at("passed", send_proxy_protocol="v1"),
            "both": to(one.instance, two.instance, sticky={"cookie": "fl"}),
        },
        "routes": [
            {"path_prefix": "/old", "redirect": {"to": "https://new.example{path}", "status": 301}},
            {
                "path_prefix": "/edit",
                "service": "one",
                "filters": [
                    {
                        "headers": {
                            "request": {"set": {"X-Env": "prod"}, "remove": ["X-Debug"]},
                            "response": {"add": {"X-Frame-Options": "DENY"}},
                        }
                    }
                ],
            },
            {
                "path_prefix": "/app",
                "strip_prefix": True,
                "rewrite_responses": True,
                "service": "one",
            },
            {
                "path_regex": "^/book/(?P<n>[0-9]+)/(?P<rest>.*)$",
                "rewrite": "/v2/{rest}/{n}",
                "service": "one",
            },
            {
                "path_prefix": "/staff",
                "service": "one",
                "filters": [{"basic_auth": {"users": [f"ann:{HASH}"], "realm": "Staff"}}],
            },
            {
                "path_prefix": "/prose",
                "service": "one",
                "filters": [{"compress": {"types": ["text/plain"], "encodings": ["gzip"]}}],
            },
            {"path_prefix": "/down", "service": "dead", "filters": [sorry]},
            {
                "path_prefix": "/closed",
                "respond": {"status": 503, "body": SORRY, "headers": {"Retry-After": "3600"}},
            },
            {
                "path_prefix": "/split",
                "split": [{"service": "one", "weight": 80}, {"service": "two", "weight": 20}],
            },
            {"path_prefix": "/sticky", "service": "both"},
            {
                "path_prefix": "/asked",
                "service": "one",
                "filters": [
                    {
                        "forward_auth": {
                            "url": f"http://127.0.0.1:{two.port}/verify",
                            "copy": ["X-User"],
                        }
                    }
                ],
            },
            {"path_prefix": "/limit", "service": "one", "filters": [limit]},
            {"path_prefix": "/copied", "service": "copied"},
            {"path_prefix": "/spoken", "service": "spoken"},
            *(
                {"path_prefix": f"/{name}", "service": "one", "filters": [one_filter]}
                for name, one_filter in filtered.items()
            ),
        ],
    }


@dataclass
class Beside:
    """Ports of a proxy and of its peer, and the instances of both."""

    ours: int
    theirs: int
    tcp: tuple[int, int]
    """Those of either where connections are passed on as they are."""
    peer: str
    one: Origin
    two: Origin

    async def both(
        self, path: str, fields: Sequence[tuple[str, str]] = (), method: str = "GET"
    ) -> tuple[Answer, Answer]:
        """What either answers."""
        ours = await ask(self.ours, method, path, [*fields])
        return ours, await ask(self.theirs, method, path, [*fields])


@asynccontextmanager
async def side_by_side(peer: str, program: str, directory: Path) -> AsyncIterator[Beside]:
    """Both run, and know their routes."""
    (directory / "users").write_text(f"ann:{HASH}\n")
    (directory / "sorry.html").write_text(SORRY)
    (directory / "sorry.http").write_text(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\n"
        f"Content-Length: {len(SORRY)}\r\n\r\n{SORRY}"
    )
    (directory / "key.pem").write_bytes(PEM)
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    (directory / "keys.json").write_text(json.dumps({"keys": [jwk]}))
    ports = {name: free_port() for name in ("dead", "web", "ours", "port", "tcp")}
    async with (
        origins("one", "two", script=script) as (one, two),
        await asyncio.start_server(speak, "127.0.0.1", 0) as spoken,
        await asyncio.start_server(say_back, "127.0.0.1", 0) as passed,
    ):
        for name, server in ("spoken", spoken), ("passed", passed):
            ports[name] = server.sockets[0].getsockname()[1]
        for name, text in CONFIGURATIONS[peer].items():
            said = text.format(
                directory=directory, one=one.port, two=two.port, hash=HASH, **ports,
                sorry=SORRY.replace("\n", "\\n" if peer != "caddy" else ""),
            )  # fmt: skip
            (directory / name).write_text(said)
        first = directory / next(iter(CONFIGURATIONS[peer]))
        environ = {"HOME": str(directory)}
        other = AwaitedProcess(command_of(peer, program, first), directory / "peer.log", environ)
        other.launch()
        try:
            async with RunningProxy(fairlead(one, two, directory, ports), directory):
                try:
                    await eventually(lambda: listens(ports["port"]), 15, peer)
                    await eventually(lambda: _has_routes(ports["port"]), 15, peer)
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{other.log()}") from None
                tcp = ports["ours"], ports["tcp"]
                yield Beside(ports["web"], ports["port"], tcp, peer, one, two)
        finally:
            await other.kill()


async def _has_routes(port: int) -> bool:
    """Traefik listens before it has read its routes, and knows no path until then."""
    return (await ask(port, "GET", "/old", [])).status != 404
