"""Where one request stands: what logs, recorders and the fault log may look at."""

from __future__ import annotations

from balancers.base import NO_KEY
from proxy.engine.admission import Admission
from proxy.engine.match import Match
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.resilience.terms import Terms
from proxy.engine.route_lines import LISTENER
from proxy.engine.streams import StreamEvents
from proxy.engine.tunnel import Tunnel
from proxy.http.properties import Source, field, parameter, property_of
from proxy.http.way_back import WayBack


class RequestState(StreamEvents):
    """State of a request, which its exchange changes (with `attempts.py`, `preparation.py` and
    `upgrade.py`), and others may look at.

    Defaults stand on the class: what a plain GET does not need costs it nothing.
    """

    match: Match | None = None
    """The route."""
    pool: Pool
    """Only of one that is routed."""
    terms: Terms
    """Limits and further attempts, of the pool or the route."""
    routed = False
    """Route and pool are found."""
    admitted = False
    """Rate limit and breaker have let it in."""
    admission: Admission | None = None
    """Debts of the request to the breaker, and to an instance that it probes; None = none."""
    way_back: WayBack | None = None
    """Changes to path and host that the answer has to turn back; None = none."""
    node: Node | None = None
    """The instance on which the request counts as in flight."""
    last: Node | None = None
    """The instance of the latest attempt, also after it has ended."""
    tried: tuple[Node, ...] = ()
    """The instances of attempts that have ended."""
    stale_node: Node | None = None
    """Instance whose kept connection turned out to be closed, which says nothing against it."""
    attempts = 0
    key = NO_KEY
    status = 0
    """Status the client got; 0 = none yet."""
    body_done = True
    """The client has sent all of the request."""
    finished = False
    trace_id = b""  # ≤ 64 B
    """Of a request that is traced."""
    filtered_by = ""
    """The filter that has answered, or failed."""
    grpc_status = -1
    """Status of a call of gRPC; below 0 = it is none, or not known yet."""
    outcome = "ok"
    """Verdict of the answer on its instance."""
    tunnel: Tunnel | None = None
    failure: Exception | None = None
    """Error that was raised inside, and ended the request."""
    has_extras = False
    """An admission, a reserve, a place in the queue or a deadline is to be given back."""
    began: float
    """When the head was read."""
    _id = b""  # ≤ 512 B

    def name(self) -> None:
        """Give the request its id, if it has none yet."""
        if not self.id_line:
            given = self.request.fields.request_id
            ids = self.client.ids
            self.id_line = ids.new() if given is None else ids.line(given)

    @property
    def request_id(self) -> bytes:
        """The id that answer, log and access log have."""
        if not self._id:
            self._id = self.client.ids.value(self.id_line)
        return self._id

    def decisions(self, end: str) -> str:
        """Verdicts of all filters that were asked, in order: `NAME:pass`, `NAME:none` if it had
        none when the client left, or `end` of the one that ended the request."""
        return ""

    def field(self, name: str) -> str | None:
        """A request field by lower-case name, or a parameter of the query, for routes that match on
        one: see `route_lines.Fields`."""
        if name.startswith("query:"):
            return parameter(self.request.target.partition(b"?")[2], name[6:])
        if name == LISTENER:
            return self.client.facts.listener
        value = field(self.request.fields, name.encode("latin-1"), self.client.facts.trusted)
        return None if value is None else value.decode("latin-1")

    def value_of(self, source: Source, path: str, query: bytes) -> bytes | None:
        """Value for a hash key or a rate limit: see `properties.py`."""
        facts = self.client.facts
        if source[0] == "client_ip":
            return facts.client(self.request.fields)
        return property_of(source, self.request.fields, path, query, facts.trusted)
