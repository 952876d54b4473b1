"""What no record may do, whatever is written into it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.registry.formats.layout import FORMATS, read_any
from proxy.registry.records import MAX_WEIGHT, Unreadable, read

texts = st.text(st.characters(codec=None), max_size=8)
"""Halves of surrogate pairs included: JSON can write them."""
numbers = st.integers() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | texts
    | numbers.filter(lambda n: n not in (float("inf"), -float("inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
PLACES = [
    *(("id",), ("name",), ("version",), ("metadata",), ("health",), ("register_time",)),
    *(("tags",), ("metadata", "weight"), ("metadata", "zone"), ("metadata", "scheme")),
    *(("health", "status"), ("health", "message"), ("health", "last_check")),
]
"""Where a record may say anything and be served all the same."""


@given(st.lists(st.tuples(st.sampled_from(PLACES), json_values), max_size=4), st.booleans())
def test_odd_values_of_optional_fields_never_cost_the_instance(
    given: list[tuple[tuple[str, ...], Any]], ascii: bool
) -> None:
    record: dict[str, Any] = {"address": "10.0.0.5", "port": 8080}
    for (first, *rest), value in given:
        if rest and isinstance(record.get(first, {}), dict):
            record.setdefault(first, {})[rest[0]] = value
        else:
            record[first] = value
    text = json.dumps(record, ensure_ascii=ascii).encode(
        "utf-8", "surrogatepass" if ascii else "replace"
    )
    instance, _ = read("users", "users-1", text)
    assert (instance.service, instance.id) == ("users", "users-1")
    assert (instance.address, instance.port) == ("10.0.0.5", 8080)
    assert 0 <= instance.weight <= MAX_WEIGHT
    shown = (instance.version, instance.health, instance.health_message, *instance.metadata.items())
    str(shown).encode()  # It can be told of, in UTF-8.


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_value_is_read_or_refused_with_a_reason(value: bytes) -> None:
    try:
        read("users", "users-1", value)
    except Unreadable as refused:
        reason = str(refused)
        assert reason
        assert len(reason) < 1000
        reason.encode()


@given(json_values, json_values)
def test_any_address_and_port_are_read_or_refused_with_a_reason(address: Any, port: Any) -> None:
    value = json.dumps({"address": address, "port": port}).encode()
    try:
        instance, _ = read("users", "users-1", value)
    except Unreadable as refused:
        reason = str(refused)
    else:
        reason = "address and port"
        assert 1 <= instance.port <= 65535
        assert instance.address.isascii()
        assert instance.address.isprintable()
    assert "address" in reason or "port" in reason


NAMES = ("Addr", "nodes", "endpoints", "host", "ip", "port", "address", "endpoint", "metadata")
values = (
    st.sampled_from(["10.0.0.5:80", "http://h", "8080", "", "grpc://[::1]:7", "id", "h:1?x=%00"])
    | json_values
)
foreign = st.dictionaries(
    st.sampled_from(NAMES),
    values | st.lists(values | st.dictionaries(st.sampled_from(NAMES), values), max_size=3),
    max_size=4,
)


@given(
    st.binary(max_size=20) | st.sampled_from([b"users/1", b"a/b/c", b"users", b"users/10.0.0.5"]),
    st.binary(max_size=40)
    | st.text(max_size=40).map(str.encode)
    | foreign.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(FORMATS),
)
def test_any_record_in_any_format_is_instances_or_refused_with_a_reason(
    key: bytes, value: bytes, form: str
) -> None:
    try:
        instances, odd = read_any(b"/s/" + key, value, prefix=b"/s/", form=form)
    except Unreadable as refused:
        reason = str(refused)
        assert reason
        assert len(reason) < 1000
    else:
        assert instances or odd
        assert len({(one.service, one.id) for one in instances}) == len(instances)
        for instance in instances:
            assert instance.service
            assert instance.id
            assert 1 <= instance.port <= 65535
            str(instance.metadata).encode()
