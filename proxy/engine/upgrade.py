"""A 101: from here on the two connections of a request are a tunnel."""

from __future__ import annotations

from collections.abc import Callable

from proxy.engine.request_state import RequestState
from proxy.engine.services import Services
from proxy.engine.streams import UpstreamStream
from proxy.engine.tunnel import Tunnel
from proxy.http.messages import ResponseHead


def open_tunnel(
    state: RequestState,
    services: Services,
    upstream: UpstreamStream,
    response: ResponseHead,
    on_closed: Callable[[], None],
) -> None:
    """Join the client's and the instance's transport, in flight on `state.node`; `on_closed` is
    called at the end."""
    node = state.node
    assert node is not None  # Only an attempt that counts is answered.
    client = state.client
    pool = state.pool
    # The client first: as long as this may raise, the instance's side is its stream's to end.
    transport = client.switch(response, state.id_line)
    instance, early = upstream.hand_over()
    state.tunnel = tunnel = Tunnel(
        transport,
        instance,
        services.deadlines,
        services.hangups,
        state.terms.settings.timeouts.tunnel_idle,
        on_closed,
    )
    took = services.now() - state.began
    pool.counters.over(state.request.method, 101, took, client.facts.caller)
    # In this order: between the two the worker must not look quiet.
    services.connections.on_tunnel_opened(tunnel, pool, node, client.counts)
    tunnel.start(from_client=client.hand_over(), from_instance=early)
