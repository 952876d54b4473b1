"""Routes that need no instance: what they answer."""

from __future__ import annotations

from proxy.errors import BAD_REQUEST, Refused
from proxy.http.messages import OwnAnswer, phrase_of
from proxy.settings.route import RedirectSpec, RespondSpec, RouteSpec


def answer_of_route(spec: RouteSpec, host: str, path: str, query: bytes) -> OwnAnswer | None:
    """The answer that a route gives itself, by the request's host without port, its path as it was
    matched, and its query with the question mark; None: it leads to a service. Raises `Refused` if
    it leads to the request's host, and there is none."""
    if spec.redirect is not None:
        return _redirect(spec.redirect, host, path, query)
    return None if spec.respond is None else _respond(spec.respond)


def _redirect(redirect: RedirectSpec, host: str, path: str, query: bytes) -> OwnAnswer:
    to = redirect.to
    if not host and "{host}" in to:
        # Clients would take the first segment of the path for it.
        raise Refused(BAD_REQUEST, "the request names no host to be sent to")
    if to.startswith("{path}"):
        path = "/" + path.lstrip("/")  # Two slashes would lead to a host that the path names.
    location = to.replace("{host}", host).replace("{path}", path).encode("ascii")
    if b"?" not in location:
        before, mark, fragment = location.partition(b"#")
        location = before + query + mark + fragment
    return _answer(redirect.status, ((b"Location", location),), b"")


def _respond(respond: RespondSpec) -> OwnAnswer:
    fields = tuple((n.encode("ascii"), v.encode("ascii")) for n, v in respond.headers.items())
    body = respond.body.encode("utf-8")
    if body and not any(name.lower() == b"content-type" for name, _ in fields):
        fields = ((b"Content-Type", b"text/plain; charset=utf-8"), *fields)
    return _answer(respond.status, fields, body)


def _answer(status: int, fields: tuple[tuple[bytes, bytes], ...], content: bytes) -> OwnAnswer:
    return OwnAnswer(status, phrase_of(status), fields, content)
