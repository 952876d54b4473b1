"""The cookie that keeps a client with one instance."""

from __future__ import annotations

from hashlib import blake2b

from balancers.base import Balancer, hash_key
from balancers.pinned import Pinned
from proxy.engine.node import Node
from proxy.http.edits import response_edited
from proxy.http.messages import ResponseHead
from proxy.http.properties import Source
from proxy.settings.sticky import StickySettings


class Sticky:
    """Names of one service's instances, as its clients keep them: a hash of the id under the
    secret, which nobody else can make, and which says nothing of the instance."""

    def __init__(self, service: str, settings: StickySettings) -> None:
        self.settings = settings
        self._key = blake2b(
            service.encode(), key=blake2b(settings.secret.encode()).digest()
        ).digest()
        self.source: Source = ("cookie", settings.cookie)
        age = f"; Max-Age={settings.ttl:.0f}" if settings.ttl else ""
        self._ends = f"; Path=/{age}; HttpOnly; SameSite={settings.same_site.capitalize()}".encode()
        secure = settings.secure
        self._secure = {
            b"http": b"; Secure" if secure == "always" else b"",
            b"https": b"" if secure == "never" else b"; Secure",
        }  # ≤ 1 KiB

    def token(self, id: str) -> bytes:
        """The value of the cookie for an instance."""
        return blake2b(id.encode(), key=self._key, digest_size=16).hexdigest().encode("ascii")

    def around(self, balancer: Balancer, nodes: list[Node]) -> Balancer:
        """The balancer that obeys the cookie, and asks this one where there is none."""
        return Pinned(balancer, nodes, self._number_of)

    def _number_of(self, id: str) -> int:
        return hash_key(self.token(id))

    def holds(self, balancer: Balancer, key: int) -> bool:
        """Whether the key of a request names an instance that is usable."""
        return isinstance(balancer, Pinned) and balancer.holds(key)

    def answer(
        self, balancer: Balancer, key: int, node: Node, scheme: bytes, response: ResponseHead
    ) -> ResponseHead:
        """The answer with the cookie for its instance, unless the request came with the one of an
        instance that is usable."""
        if self.holds(balancer, key):
            return response
        fields = response.fields
        name = self.settings.cookie.encode("ascii")
        value = self.token(node.id) + self._ends + self._secure[scheme]
        new = response_edited(fields, fields.plain + b"Set-Cookie: %b=%b\r\n" % (name, value))
        return ResponseHead(response.status, response.status_line, response.minor, new)
