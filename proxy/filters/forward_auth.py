"""`forward_auth`: another server says whether a request may go on, and who asks.

It is asked by a GET without a body: with the client's `Cookie` and `Authorization`, and what the
request is for in `X-Forwarded-*`, in the words in which the instance would get it. Nothing else
that a client says reaches it, so that no field of the client's can pass for one of ours.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

import aiohttp

from proxy.errors import AUTH_UNAVAILABLE, Refused
from proxy.filters.base import Context, Filter, FilterOptions
from proxy.filters.headers import name_read
from proxy.filters.message import Request, Response, problem_of_name
from proxy.settings.declare import Distinct
from proxy.settings.read import POSITIVE, Read

LARGEST: Final = 64 * 1024
"""Bytes of an answer that is relayed: a page to log in, or where there is one."""
_CONNECTIONS: Final = 64
"""To the server, for each worker; further requests wait for one, within their time."""
_PROOFS: Final = ("Cookie", "Authorization")


def _parse_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("is not a URL")
    return text


_URLS: Final = "a URL such as http://auth.internal/verify"
URL: Final = Read(_parse_url, "URL", _URLS, secret=True)
URL_OR_NONE: Final = Read(lambda text: text and _parse_url(text), "URL", _URLS, secret=True)


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `forward_auth`."""

    url: Annotated[str, URL, "Where it is asked, such as `http://auth.internal/verify`."]
    copy: Annotated[
        tuple[str, ...],
        name_read(True),
        Distinct(),
        "Fields of its answer that the instance gets; no client can set them.",
    ] = ()
    timeout: Annotated[float, POSITIVE, "How long it may take; then 503."] = 2.0


class ForwardAuth(Filter):
    """Permission by another server. Owns the connections to it."""

    options: ClassVar[type[FilterOptions] | None] = Options
    authenticates: ClassVar[bool] = True
    meaning: ClassVar[str] = "Ask another server whether a request may go on."

    def __init__(self, options: Options) -> None:
        self._url = options.url
        self._copied = options.copy
        # A user in the URL is shown in that field.
        self._asked_with = ("Cookie",) if "@" in urlsplit(options.url).netloc else _PROOFS
        self._timeout = options.timeout
        self.time_limit = options.timeout + 1.0  # Its own limit comes first, and is a 503.
        self._session: aiohttp.ClientSession | None = None
        self._context: Context

    def open(self, context: Context) -> None:
        """See `Filter`."""
        self._context = context
        for name in self._copied:  # ≤ 1000
            context.claim(name)

    def close(self) -> None:
        """See `Filter`."""
        session, self._session = self._session, None
        if session is not None:
            self._closing = self._context.loop.create_task(session.close())

    async def on_request(self, request: Request) -> Response | None:
        """See `Filter`."""
        question = _question(request, self._asked_with)
        for name in self._copied:  # ≤ 1000
            request.headers.remove(name)
        try:
            async with self._connections().get(
                self._url, headers=question, allow_redirects=False
            ) as answer:
                if 200 <= answer.status < 300:
                    self._copy(request, answer)
                    return None
                return await _relayed(answer)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            what = type(error).__name__
            raise Refused(AUTH_UNAVAILABLE, f"the server that decides: {what}") from None

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._context.connector(_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                auto_decompress=False,
                max_field_size=LARGEST,
            )
        return self._session

    def _copy(self, request: Request, answer: aiohttp.ClientResponse) -> None:
        wanted = {name.lower().encode(): name for name in self._copied}
        for raw, value in answer.raw_headers:  # ≤ 1000
            name = wanted.get(raw.lower())
            if name is not None:
                request.headers.add(name, value.decode("latin-1"))


def _question(request: Request, proofs: tuple[str, ...]) -> dict[str, str]:
    fields = {
        "X-Forwarded-Method": request.method,
        "X-Forwarded-Proto": request.scheme,
        "X-Forwarded-Host": request.authority,
        "X-Forwarded-Uri": request.forwarded_target,
        "X-Forwarded-For": request.client,
        "Accept-Encoding": "identity",
        "User-Agent": "fairlead",
    }
    for name in proofs:  # ≤ 2
        value = request.headers.get(name)
        if value is not None:
            fields[name] = _same_bytes(value)
    return fields


def _same_bytes(value: str) -> str:
    """A value of which aiohttp, which writes UTF-8, makes the bytes that came, if they are some."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return value


async def _relayed(answer: aiohttp.ClientResponse) -> Response:
    """An answer that is none of 2xx, for the client. Raises `ValueError` if it is too large."""
    content = await answer.content.read(LARGEST + 1)
    while len(content) <= LARGEST and not answer.content.at_eof():  # ≤ 65536
        content += await answer.content.read(LARGEST + 1 - len(content))
    if len(content) > LARGEST:
        raise ValueError("too large an answer")
    response = Response(answer.status, content)
    for raw, value in answer.raw_headers:  # ≤ 1000
        name = raw.decode("latin-1")
        if not problem_of_name(name, False):
            response.headers.add(name, value.decode("latin-1"))
    return response
