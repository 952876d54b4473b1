"""The dashboard: its files, and who is logged in to it.

A page in a browser cannot send a token of its own accord, so it is given a cookie for one. The
cookie stands for the token while that is in force, and for no more than that; scripts cannot read
it (HttpOnly), other sites cannot have it sent (SameSite=Strict), and what it may change is only
done for a request that a browser says to be of this very origin.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from functools import cache
from http.cookies import CookieError, SimpleCookie
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web

import proxy
from proxy.control.admin_access import READING, Access, Denial, denied_token
from proxy.control.admin_connections import read_body
from proxy.control.admin_logins import Logins
from proxy.control.registrations import Refusal
from proxy.control.running_changes import json_answer

log = structlog.get_logger()

MOST = 64
"""Sessions: the browsers of a team. One more ends the oldest."""

LIFE = 12 * 3600.0
"""Seconds of a session: a working day with its evening."""

BODY = 4096
"""Bytes of a request to log in: a token is shorter."""

FILES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "views.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
OPEN_PATHS = frozenset({"/", "/api/v1/session", *(f"/dashboard/{name}" for name in FILES)})
"""Paths that hold nothing about the proxy, and are there for whoever may call it by its name."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Login(msgspec.Struct):
    """The body of a request to log in."""

    token: str


class Sessions:
    """Owns who is logged in: the name of a session → its token, and when it ends."""

    def __init__(self, most: int = MOST, life: float = LIFE) -> None:
        self._most = most
        self._life = life
        self._open: dict[str, tuple[str, float]] = {}

    def begin(self, token: str, now: float) -> str:
        """The name of a new session. If there are too many, the oldest ends."""
        while len(self._open) >= self._most:
            del self._open[next(iter(self._open))]
        name = secrets.token_urlsafe(32)
        self._open[name] = token, now + self._life
        return name

    def token(self, name: str, now: float) -> str:
        """The token that a session stands for; "" = there is no such session, or it has ended."""
        token, until = self._open.get(name, ("", now))
        if until <= now:
            self._open.pop(name, None)
            return ""
        return token

    def end(self, name: str) -> None:
        """End a session, if it is there."""
        self._open.pop(name, None)


class Pages:
    """Owns the sessions; answers what is not about the proxy but about who looks at it."""

    def __init__(self, access: Callable[[], Access], port: int) -> None:
        """`access`: the rules in force; `port`: of the admin server, as browsers send a cookie to
        all ports of a host."""
        self._access = access
        self._cookie = f"fairlead_session_{port}"
        self._sessions = Sessions()
        self._logins = Logins()

    @property
    def paths(self) -> Mapping[str, Mapping[str, Any]]:
        """Pattern → method → handler."""
        return {
            "/dashboard/{file}": {"GET": self._file},
            "/api/v1/session": {"GET": self._session, "POST": self._begin, "DELETE": self._end},
        }

    def index(self, request: web.BaseRequest) -> web.Response:
        """The page itself."""
        return _page("index.html")

    def authorization(self, request: web.BaseRequest) -> str:
        """Value of Authorization that the session of a request stands for; "" = there is none. A
        change is only made for a request of which a browser says where it comes from."""
        if request.method not in READING and not (
            "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
        ):
            return ""
        token = self._sessions.token(self._name(request), time.monotonic())
        return f"Bearer {token}" if token else ""

    def _name(self, request: web.BaseRequest) -> str:
        try:
            found = SimpleCookie(request.headers.get("Cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if found is None else found.value

    async def _file(self, request: web.BaseRequest, name: str) -> web.Response:
        if name not in FILES:
            raise Refusal(404, f"there is no file {name[:80]!r} of the dashboard")
        return _page(name)

    async def _session(self, request: web.BaseRequest) -> web.Response:
        """`GET /api/v1/session`: who asks, and what that may."""
        authorization = request.headers.get("Authorization", "") or self.authorization(request)
        access = self._access()
        allowed = {
            word: denied_token(method, authorization, access) is None
            for word, method in (("may_look", "GET"), ("may_change", "POST"))
        }
        needed = bool(access.token or access.read_token)
        return json_answer({"version": proxy.__version__, "token_needed": needed, **allowed})

    async def _begin(self, request: web.BaseRequest) -> web.Response:
        """`POST /api/v1/session`: log in."""
        address, now = request.remote or "", time.monotonic()
        wait = self._logins.wait(address, now)
        if wait > 0:
            headers = {"Retry-After": str(ceil(wait))}
            raise Refusal(429, f"too many wrong tokens: wait {ceil(wait)} s", headers=headers)
        try:
            token = msgspec.json.decode(await read_body(request, BODY), type=Login).token
        except (ValueError, RecursionError):
            raise Refusal(400, 'the body: must be {"token": "…"}') from None
        denial: Denial | None = denied_token("GET", f"Bearer {token}", self._access())
        if denial is not None:
            self._logins.failed(address, now)
            log.warning(
                "admin_login_refused",
                peer=request.remote,
                wait=ceil(self._logins.wait(address, now)),
            )
            raise Refusal(denial.status, "this is not the token")
        self._logins.succeeded(address)
        log.info("admin_logged_in", peer=request.remote)
        answer = await self._session_of(request, token)
        self._sessions.end(self._name(request))
        answer.set_cookie(
            self._cookie,
            self._sessions.begin(token, time.monotonic()),
            max_age=int(LIFE),
            httponly=True,
            samesite="Strict",
            secure=request.secure,
            path="/",
        )
        return answer

    async def _session_of(self, request: web.BaseRequest, token: str) -> web.Response:
        changes = denied_token("POST", f"Bearer {token}", self._access()) is None
        return json_answer({"may_look": True, "may_change": changes})

    async def _end(self, request: web.BaseRequest) -> web.Response:
        """`DELETE /api/v1/session`: log out."""
        self._sessions.end(self._name(request))
        answer = web.Response(status=204)
        answer.del_cookie(self._cookie, path="/", httponly=True, samesite="Strict")
        return answer


def wants_page(request: web.BaseRequest) -> bool:
    """Whether the dashboard is meant, and not the list of paths, which is JSON."""
    return quality(request, "text/html") > 0 or not quality(request, "application/json")


def quality(request: web.BaseRequest, kind: str) -> float:
    """How much a kind of answer is wanted by its name, 0 to 1 (RFC 9110 section 12.4.2)."""
    accept = ",".join(request.headers.getall("Accept", ()))
    found = re.findall(rf"(?:^|,)[ \t]*{re.escape(kind)}[ \t]*(?=[;,]|$)([^,]*)", accept, re.I)
    shares = (re.search(r";[ \t]*q=([01](?:\.\d{0,3})?)[ \t]*(?:;|$)", one, re.I) for one in found)
    return max((float(share[1]) if share else 1.0 for share in shares), default=0.0)


@cache
def _content(name: str) -> bytes:
    return (Path(__file__).parent / "dashboard" / name).read_bytes()


def _page(name: str) -> web.Response:
    return web.Response(
        body=_content(name), headers={**HEADERS, "Content-Type": FILES[name], "Vary": "Accept"}
    )
