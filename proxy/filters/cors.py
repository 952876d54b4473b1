"""`cors`: which pages of other origins may read answers (Fetch, §3.2). Preflights end here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from proxy.filters.base import Filter, FilterOptions
from proxy.filters.message import Edit, Headers, Request, Response, vary
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import RequestHead, values_of
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.keys import TOKEN
from proxy.settings.read import DURATION, SWITCH, Read
from proxy.settings.route_values import METHOD

_ORIGIN: Final = re.compile(
    r"https?://(\*\.)?([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)
_MOST_EDITS: Final = 256
"""Origins for which is remembered how answers to them are edited: more than pages of one site have.
Behind a wildcard, or of those that are refused, there may be any number."""
_LONGEST: Final = 300
"""Characters of an origin that is remembered: a name in the DNS has 253."""
_BELOW: Final = r"(?:[a-z0-9_-]+\.)+"

_OURS: Final = tuple(
    f"Access-Control-{what}" for what in ("Allow-Origin", "Allow-Credentials", "Expose-Headers")
)


def _parse_origin(text: str) -> str:
    lower = text.lower()
    if lower != "*" and not _ORIGIN.fullmatch(lower):
        raise ValueError("is not an origin")
    return lower


def _parse_name(text: str) -> str:
    if not TOKEN.fullmatch(text):
        raise ValueError("is not the name of a field")
    return text


_ORIGIN_READ: Final = Read(
    _parse_origin, "origin", "https://app.example.com, https://*.example.org, or * for all"
)
_NAME: Final = Read(_parse_name, "name", "the name of a field, or *")


class Options(FilterOptions, frozen=True, kw_only=True):
    """The keys of `cors`."""

    origins: Annotated[
        tuple[str, ...],
        _ORIGIN_READ,
        Distinct(),
        "Origins whose pages may read answers: `https://app.example.com`, `https://*.example.org`"
        " for all below, or `*` for all.",
    ]
    methods: Annotated[tuple[str, ...], METHOD, "Methods that they may use."] = (
        "GET", "HEAD", "POST",
    )  # fmt: skip
    headers: Annotated[
        tuple[str, ...], _NAME, "Fields that their requests may have; `*` for all."
    ] = ()
    expose: Annotated[tuple[str, ...], _NAME, "Fields of answers that they may read."] = ()
    credentials: Annotated[
        bool, SWITCH, "Their requests may have cookies and passwords. Not together with `*`."
    ] = False
    max_age: Annotated[
        float,
        DURATION,
        "How long browsers may remember this; 0 = as long as they do by themselves.",
    ] = 0.0

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """See `FilterOptions`."""
        if self.credentials and "*" in self.origins:
            report.complain(
                given.at("credentials"),
                "stands beside the origin *, so that any page could act for its visitors;"
                " allowed: origins by name",
            )
        return self


class Cors(Filter):
    """Permission for pages of other origins."""

    options: ClassVar[type[FilterOptions] | None] = Options
    meaning: ClassVar[str] = "Which pages of other origins may read answers."

    def __init__(self, options: Options) -> None:
        self._any = "*" in options.origins
        patterns = (re.escape(one).replace(r"\*\.", _BELOW) for one in options.origins)
        self._allowed = re.compile("|".join(patterns) or "(?!)")
        self._methods = options.methods
        self._any_field = "*" in options.headers
        self._fields = ", ".join(options.headers)
        self._expose = ", ".join(options.expose)
        self._credentials = options.credentials
        self._varies = Headers(b"", None, False)
        vary(self._varies, "Origin")
        self._max_age = int(options.max_age)
        self._edits: dict[str | None, Edit] = {}  # ≤ _MOST_EDITS * (400 B + _LONGEST)
        """By Origin."""

    def edits_only(self, request: RequestHead, facts: ClientFacts) -> bool:
        """See `Filter`."""
        return request.method != b"OPTIONS"

    def response_edit(self, request: RequestHead) -> Edit | None:
        """See `Filter`."""
        values = values_of(request.fields.plain, b"origin")
        origin = b", ".join(values).decode("latin-1") if values else None
        edit = self._edits.get(origin)
        if edit is None:
            edit = Edit(lambda headers: self._answer(headers, origin))
            if origin is None or len(origin) <= _LONGEST:
                if len(self._edits) >= _MOST_EDITS:
                    self._edits.clear()
                self._edits[origin] = edit
        return edit

    def on_request(self, request: Request) -> Response | None:
        """See `Filter`. A preflight request is answered here, whoever asks; what it asks for is
        permitted by fields, or by none."""
        if request.method != "OPTIONS":
            return None
        asked = request.headers.get("Access-Control-Request-Method")
        if asked is None or "Origin" not in request.headers:
            return None
        response = Response(204)
        headers = response.headers
        vary(headers, "Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
        if asked in self._methods and self._permit(request.headers.get("Origin"), headers):
            headers.set("Access-Control-Allow-Methods", ", ".join(self._methods))
            fields = self._fields
            if self._any_field:
                fields = request.headers.get("Access-Control-Request-Headers") or ""
            if fields:
                headers.set("Access-Control-Allow-Headers", fields)
            if self._max_age:
                headers.set("Access-Control-Max-Age", str(self._max_age))
        return response

    def on_response(self, request: Request, response: Response) -> None:
        """See `Filter`. What an instance says of it gives way to what stands here."""
        self._answer(response.headers, request.headers.get("Origin"))

    def _answer(self, headers: Headers, origin: str | None) -> None:
        """Edit the fields of an answer to a page of this origin."""
        if headers.mention(b"access"):
            for name in _OURS:
                headers.remove(name)
        if not self._any:
            if headers.mention(b"vary"):
                vary(headers, "Origin")
            else:
                headers.edit(self._varies)
        if self._permit(origin, headers) and self._expose:
            headers.add("Access-Control-Expose-Headers", self._expose)

    def _permit(self, origin: str | None, headers: Headers) -> bool:
        """Permit the origin of a request, if it is one of these, in fields that say nothing of it
        yet."""
        if origin is None or not (self._any or self._allowed.fullmatch(origin.lower())):
            return False
        headers.add("Access-Control-Allow-Origin", "*" if self._any else origin)
        if self._credentials:
            headers.add("Access-Control-Allow-Credentials", "true")
        return True
