"""What no message of a name server may do."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from proxy.registry.base import RegistryError
from proxy.registry.dns.wire import Kind, question, reply
from tests.support.scripted_names import AAAA, SRV, A, answer

WHOLE = answer(
    question(7, "_users._tcp.svc.local", Kind.SRV),
    [(SRV, (1, 5, 8080, "n1.svc.local")), (A, "10.0.0.1")],
    [("n1.svc.local", AAAA, "fd00::1")],
)


@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=4)).map(
        lambda change: WHOLE[: change[0]] + change[1] + WHOLE[change[0] + len(change[1]) :]
    )
)
def test_any_message_is_read_or_an_outage(message: bytes) -> None:
    with contextlib.suppress(RegistryError):
        reply(message)
