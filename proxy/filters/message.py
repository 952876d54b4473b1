"""Requests and answers as filters see them: views of the engine's heads, which are never changed
but made anew once the filters are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from proxy.errors import Fault
from proxy.filters.content import Change, changed
from proxy.http.claims import hyphened
from proxy.http.edits import (
    RESPONSES,
    request_edited,
    request_with,
    response_edited,
    response_with,
    without,
)
from proxy.http.fields import CLAIM, PLAIN, REQUEST_KINDS, RESPONSE_KINDS, VALUE_BYTES, Kinds
from proxy.http.forwarding import TOKEN_BYTES, WRITTEN_ANEW, ClientFacts, passed_fields
from proxy.http.messages import (
    OwnAnswer,
    RequestFields,
    RequestHead,
    ResponseFields,
    ResponseHead,
    pairs_of,
    phrase_of,
    values_of,
)
from proxy.http.properties import Source, field, property_of
from proxy.http.target import TARGET_BYTES

_NOT_A_PATH: Final = TARGET_BYTES.replace(b"?", b"")
_SHORT: Final = 64
"""Bytes of a name that is remembered."""
_NOTHING: Final[frozenset[str]] = frozenset()
_BODILESS: Final = frozenset((b"HEAD", b"CONNECT"))
"""Methods whose messages are framed in a way of their own."""
_BARE: Final = (204, 304)
"""Statuses of answers that have no content, whatever their fields say."""


@lru_cache(maxsize=1024)  # ≤ 512 KiB
def problem_of_name(name: str, of_requests: bool = True) -> str:
    """Say why a filter may not set the field of this name; empty = it may. The field must not mean
    something to the proxy itself, nor be one that programs take for another."""
    raw = name.encode("latin-1", "replace")
    lower = raw.lower()
    if not raw or raw.translate(None, TOKEN_BYTES):
        return "is not the name of a field"
    kinds: Kinds = REQUEST_KINDS if of_requests else RESPONSE_KINDS
    allowed = (PLAIN, CLAIM) if of_requests else (PLAIN,)
    if kinds.of(lower) not in allowed or lower in WRITTEN_ANEW or lower == b"date":
        return "is for the proxy alone to set"
    return ""


def _means(name: bytes) -> bytes:
    """The name of a field as programs may take it."""
    return _short_means(name) if len(name) <= _SHORT else hyphened(name.lower())


@lru_cache(maxsize=1024)  # ≤ 512 KiB
def _short_means(name: bytes) -> bytes:
    return hyphened(name.lower())


def _line_value(value: str) -> bytes:
    raw = value.encode("latin-1").strip(b" \t")
    if raw.translate(None, VALUE_BYTES):
        raise ValueError(f"{value!r} is not a field value")
    return raw


class Headers:
    """Fields of a message. Their names are compared without regard to case, and, to take them
    away, as programs do that make variables of them: `X_User` and `X.User` are `X-User`, too."""

    __slots__ = ("_of_requests", "_other", "changed", "plain", "taken")

    def __init__(
        self,
        plain: bytes,
        other: Callable[[bytes], bytes | None] | None = None,
        of_requests: bool = True,
    ) -> None:
        """`plain`: the lines, each `Name: value` CR LF; `other`: finds those that the proxy keeps
        apart, by their names in lower case."""
        self.plain = plain  # ≤ 256 KiB
        self._other = other
        self._of_requests = of_requests
        self.taken: set[bytes] = set()  # ≤ 64 KiB
        """Names that were taken away, in lower case with hyphens."""
        self.changed = False

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of a field, several lines joined by a comma; those of Cookie by a semicolon."""
        lower = name.lower().encode("latin-1", "replace")
        values = self._values(lower)
        if values:
            return (b"; " if lower == b"cookie" else b", ").join(values).decode("latin-1")
        if self._other is None or hyphened(lower) in self.taken:
            return default
        other = self._other(lower)
        return default if other is None else other.decode("latin-1")

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def mention(self, lower: bytes) -> bool:
        """Whether this stands anywhere in the fields, in any case: most often it does not."""
        return lower in self.plain.lower()

    def lines(self, name: str) -> list[str]:
        """The values of a field, one for each of its lines."""
        lower = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for value in self._values(lower)]

    def _values(self, lower: bytes) -> list[bytes]:
        return [] if lower.translate(None, TOKEN_BYTES) else values_of(self.plain, lower)

    def items(self) -> list[tuple[str, str]]:
        """Names and values of all fields that mean nothing to a proxy, in order."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.pairs]

    @property
    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Names and values of the same fields as they are written."""
        return pairs_of(self.plain)

    def set(self, name: str, value: str) -> None:
        """Have this one line of the field, whatever there was. A character of the value is a byte:
        UTF-8 is `text.encode().decode("latin-1")`. Raises `ValueError`."""
        self.remove(name)
        self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Add a line behind those that there are. Raises `ValueError`."""
        self.plain += b"%b: %b\r\n" % (self._checked(name), _line_value(value))
        self.changed = True

    def remove(self, name: str) -> None:
        """Take all lines of a field away. Raises `ValueError`."""
        means = _means(self._checked(name))
        kept = without(self.plain, means)
        if kept is not self.plain or (self._other is not None and self._other(means) is not None):
            self.plain = kept
            self.changed = True
        self.taken.add(means)

    def edit(self, by: Headers) -> None:
        """Take the same away, and then add the same, as was done to those that began with none."""
        plain = self.plain
        for means in by.taken:  # ≤ 1000
            kept = without(plain, means)
            if kept is not plain or (self._other is not None and self._other(means) is not None):
                self.changed = True
            plain = kept
        self.taken |= by.taken
        if by.plain:
            plain += by.plain
            self.changed = True
        self.plain = plain

    def _checked(self, name: str) -> bytes:
        problem = problem_of_name(name, self._of_requests)
        if problem:
            raise ValueError(f"{name!r} {problem}")
        return name.encode("latin-1")


class Edit:
    """A change of fields, which is the same for all messages: what it makes of a block of them is
    remembered."""

    __slots__ = ("_change",)

    def __init__(self, change: Callable[[Headers], None]) -> None:
        self._change = change

    def of_request(self, was: RequestFields) -> RequestFields:
        """The fields that take the place of a request's."""
        made = was.edited
        if made is None or made.edit is not self:
            headers = Headers(was.plain)
            self._change(headers)
            made = request_edited(was, headers.plain, frozenset(headers.taken))
            made.edit = self
        return made

    def of_response(self, was: ResponseFields) -> ResponseFields:
        """The fields that take the place of an answer's."""
        made = RESPONSES.young.get(was)
        if made is None or made.edit is not self:
            headers = Headers(was.plain, None, False)
            self._change(headers)
            made = response_edited(was, headers.plain)
            made.edit = self
        return made


def vary(headers: Headers, *names: str) -> None:
    """Say that an answer depends on these fields of requests (RFC 9110 §12.5.5)."""
    lines = headers.lines("Vary")
    said = {one.strip().lower() for line in lines for one in line.split(",")} if lines else _NOTHING
    new = [name for name in names if name.lower() not in said and "*" not in said]
    if new:
        headers.add("Vary", ", ".join(new))


class Request:
    """A request on its way to an instance. Path and method may be set until the answer comes."""

    def __init__(
        self, head: RequestHead, path: str, query: bytes, facts: ClientFacts, is_call: bool
    ) -> None:
        """`path`: as it is matched; `query`: with its question mark."""
        fields = head.fields
        self._head = head
        self._facts = facts
        self._path = path
        self._query = query
        self._method = head.method
        self._headers: Headers | None = None
        self._retargeted = False
        self.changes: list[Change] = []  # ≤ 8 KiB
        """Changes of the content, in the order in which they apply."""
        self.keeps_length = True
        self.is_call = is_call
        """Whether it is one of gRPC, whose answers have no content that people read."""
        self.host = fields.host_name
        """In lower case, without port."""
        self.target_of_instance = ""
        """Path and query that the instance would get; empty for filters of a listener."""
        self.service = ""
        """Name of the service, once that is known; empty for filters of a listener."""
        self.id = ""
        """Id that log and answer have; empty for filters of a listener."""
        self.notes: dict[str, Any] = {}  # ≤ 64 KiB
        """A place for filters to keep things until the answer, or the end."""

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"

    @property
    def head(self) -> RequestHead:
        """The head as it came."""
        return self._head

    def route(self, head: RequestHead, path: str, query: bytes, is_call: bool) -> None:
        """Note that the request is routed, with this head, as it is matched."""
        self._head, self._path, self._query, self.is_call = head, path, query, is_call
        self._method, self._headers = head.method, None

    @property
    def headers(self) -> Headers:
        """The fields. Those that a proxy in front set for its client are here only if it is
        trusted."""
        if self._headers is None:
            self._headers = Headers(self._head.fields.plain, self._special)
        return self._headers

    def _special(self, lower: bytes) -> bytes | None:
        return field(self._head.fields, lower, self._facts.trusted)

    @property
    def client(self) -> str:
        """Address of the client, behind proxies that are trusted."""
        return self._facts.client(self._head.fields).decode("ascii")

    @property
    def scheme(self) -> str:
        """`http` or `https`: what the client speaks, as far as a trusted proxy says."""
        told = self._head.fields.claims.get(b"x-forwarded-proto") if self._facts.trusted else None
        return (told or self._facts.scheme).decode("ascii")

    @property
    def authority(self) -> str:
        """Host with its port, as the client wrote it."""
        return self._head.fields.host.decode("ascii")

    @property
    def content_length(self) -> int | None:
        """Length of the body as it was announced; None = in chunks, or none."""
        return self._head.fields.length

    @property
    def method(self) -> str:
        """The method, in capitals."""
        return self._method.decode("ascii")

    @method.setter
    def method(self, method: str) -> None:
        raw = method.encode("ascii")
        if not raw or raw.translate(None, TOKEN_BYTES):
            raise ValueError(f"{method!r} is not a method")
        if raw != self._method and (raw in _BODILESS or self._method in _BODILESS):
            raise ValueError(f"{self.method} cannot become {method}")
        self._retargeted = self._retargeted or raw != self._method
        self._method = raw

    @property
    def path(self) -> str:
        """The path as it is matched: normalised, other escapes left as they are."""
        return self._path

    @path.setter
    def path(self, path: str) -> None:
        if not path.startswith("/") or path.encode("latin-1", "replace").translate(
            None, _NOT_A_PATH
        ):
            raise ValueError(f"{path!r} is not a path with its escapes")
        self._retargeted = self._retargeted or path != self._path
        self._path = path

    @property
    def forwarded_target(self) -> str:
        """Path and query as they go on, as far as that is known: in a spelling that leads where it
        is matched to lead."""
        if self._retargeted or not self.target_of_instance:
            return (self._path.encode("ascii") + self._query).decode("ascii")
        return self.target_of_instance

    @property
    def query(self) -> str:
        """The query without its question mark."""
        return self._query[1:].decode("ascii")

    @query.setter
    def query(self, query: str) -> None:
        raw = query.encode("latin-1")
        if raw.translate(None, TARGET_BYTES):
            raise ValueError(f"{query!r} is not a query with its escapes")
        self._retargeted = True
        self._query = b"?" + raw if raw else b""

    def value(self, source: Source) -> bytes | None:
        """The value of what a limit is keyed on (`properties.source_of`)."""
        if source[0] == "client_ip":
            return self._facts.client(self._head.fields)
        if source[0] == "header":
            value = self.headers.get(source[1])
            return None if value is None else value.encode("latin-1")
        fields = self._head.fields
        return property_of(source, fields, self._path, self._query, self._facts.trusted)

    def transform(self, change: Change, keeps_length: bool = False) -> None:
        """Have `change` called for each piece of the body, in the order in which filters said so.
        `keeps_length`: what it returns is as long as what it gets."""
        self.changes.append(change)
        self.keeps_length = self.keeps_length and keeps_length

    def taken_over(self) -> tuple[RequestHead, bool] | None:
        """The head with what was changed since this was asked last, and whether it may lead
        elsewhere; None = nothing was."""
        headers, retargeted = self._headers, self._retargeted
        head = self._head
        fields = head.fields
        lengthless = bool(self.changes and not self.keeps_length and fields.length)
        changed = headers is not None and headers.changed
        if not changed and not retargeted and not lengthless:
            return None
        if headers is not None and changed:
            fields = request_edited(fields, headers.plain, frozenset(headers.taken))
        if lengthless:
            fields = request_with(fields, fields.plain)
            fields.chunked, fields.length = True, None
            fields.passed = passed_fields(fields)
        target = self._path.encode("ascii") + self._query if retargeted else head.target
        self._head = RequestHead(self._method, target, head.minor, fields)
        self._headers, self._retargeted = None, False
        return self._head, retargeted


class Response:
    """An answer on its way to the client: an instance's, the proxy's, or one that a filter makes
    by itself."""

    fault: Fault | None = None
    """Reason for an answer of the proxy's own, if something went wrong."""
    detail = ""
    keeps_length = True
    phrase = ""
    _head: ResponseHead | None = None
    _content: bytes | None = None

    def __init__(
        self,
        status: int = 200,
        content: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        *,
        fault: Fault | None = None,
        detail: str = "",
    ) -> None:
        """`fault`: what the answer is for, instead of a content: it is told as each of the proxy's
        own faults is, also to clients of gRPC; `detail`: what exactly is wrong."""
        raw = content.encode("utf-8") if isinstance(content, str) else content
        self.status = status if fault is None else fault.status
        self.headers = Headers(b"", None, False)
        self._content = raw  # ≤ 1 MiB
        self.fault = fault
        self.detail = detail
        self.changes: list[Change] = []  # ≤ 8 KiB
        self.length: int | None = len(raw)
        """Bytes of content, as far as they are known at the head."""
        for name, value in (headers or {}).items():  # ≤ 256
            self.headers.add(name, value)
        if raw and "Content-Type" not in self.headers and isinstance(content, str):
            self.headers.add("Content-Type", "text/plain; charset=utf-8")

    def __repr__(self) -> str:
        return f"<Response {self.status}>"

    @property
    def status(self) -> int:
        """The status, which may be set: from 200 on; with content if the instance's has some."""
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise ValueError(f"{status!r} is not the status of an answer")
        head = self._head
        if head is not None and (status in _BARE) != (head.status in _BARE):
            raise ValueError(f"an instance's {head.status} cannot become {status}")
        self._status = int(status)

    @property
    def content(self) -> bytes | None:
        """The whole content; None = an instance's, which passes by (`transform`)."""
        return self._content

    @content.setter
    def content(self, content: bytes) -> None:
        if self._head is not None:
            raise ValueError("the content of an instance's answer can be transformed, not set")
        given: object = content
        if not isinstance(given, bytes):
            raise TypeError(f"{type(given).__name__} is not a content, bytes are")
        self._content = given

    def transform(self, change: Change, keeps_length: bool = False) -> None:
        """Change the content of the answer on its way, as `Request.transform` does a request's."""
        self.changes.append(change)
        self.keeps_length = self.keeps_length and keeps_length

    @classmethod
    def of_instance(cls, head: ResponseHead) -> Response:
        """The view of an instance's answer."""
        response = cls.__new__(cls)
        response._status = head.status
        response.headers = Headers(head.fields.plain, None, False)
        response.length = head.fields.length
        response.changes = []
        response._head = head
        return response

    @classmethod
    def of_proxy(cls, answer: OwnAnswer, fault: Fault | None) -> Response:
        """The view of an answer of the proxy's own."""
        response = cls(answer.status, answer.content)
        plain = b"".join([b"%b: %b\r\n" % pair for pair in answer.fields])
        response.headers = Headers(plain, None, False)
        response.fault, response.phrase = fault, answer.phrase
        return response

    def head(self) -> ResponseHead:
        """The head of an instance's answer, with what was changed."""
        head = self._head
        assert head is not None
        lengthless = bool(self.changes) and not self.keeps_length
        if not self.headers.changed and self.status == head.status and not lengthless:
            return head
        if self.changes:  # Whose length is set anew, here or where they are made.
            fields = response_with(head.fields, self.headers.plain)
        else:
            fields = response_edited(head.fields, self.headers.plain)
        if lengthless:
            fields.length = None
        line = head.status_line
        if self.status != head.status:
            line = b"HTTP/1.1 %d %b\r\n" % (self.status, phrase_of(self.status).encode("ascii"))
        return ResponseHead(self.status, line, head.minor, fields)

    def own_answer(self) -> OwnAnswer:
        """The whole answer, content changed."""
        content = b"" if self._status in _BARE else self._content or b""
        if self.changes and self._status not in _BARE:
            content = changed(self.changes, content, True, False)
        phrase = self.phrase
        if not phrase or phrase_of(self.status) != phrase:
            phrase = phrase_of(self.status)
        return OwnAnswer(self.status, phrase, tuple(self.headers.pairs), content)
