"""Every name of a service and an instance can be asked for."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.admin_paths import Paths

PATHS = Paths({"/services/{service}/instances/{id}/drain": {"POST": "drain"}})


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_name_is_reached_by_its_percent_encoding(service: str, id: str) -> None:
    path = f"/services/{quote(service, safe='')}/instances/{quote(id, safe='')}/drain"
    found = PATHS.find(path)
    assert found is not None
    assert found.names == (service, id)
