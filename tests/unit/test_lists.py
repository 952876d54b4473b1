"""Documents with instances, of files and HTTP servers → records, or why there is none."""

from __future__ import annotations

import pytest

from proxy.membership import Instance
from proxy.registry.lists import NoList, decoded, read_record, records
from proxy.registry.records import Unreadable


def instances(document: object) -> list[Instance]:
    return [read_record(key, value)[0] for key, value in records(document).items()]


def complaints(document: object) -> dict[str, str]:
    found = {}
    for key, value in records(document, place="a.yaml: ").items():
        try:
            read_record(key, value)
        except Unreadable as error:
            found[key.decode()] = str(error)
    return found


def test_a_mapping_of_services_holds_records_and_endpoints() -> None:
    document = {
        "users": [
            {"id": "a", "address": "10.0.0.1", "port": "80", "metadata": {"weight": "3"}},
            {"address": "10.0.0.2", "port": 80},
            "10.0.0.3:80",
            "https://users.example.com",
        ],
        "orders": [],
        "later": None,
    }
    found = instances(document)
    assert [(one.service, one.id, one.address, one.port) for one in found] == [
        ("users", "a", "10.0.0.1", 80),
        ("users", "10.0.0.2:80", "10.0.0.2", 80),
        ("users", "10.0.0.3:80", "10.0.0.3", 80),
        ("users", "users.example.com:443", "users.example.com", 443),
    ]
    assert found[0].weight == 3


def test_groups_of_targets_are_those_of_prometheus() -> None:
    labels = {"service": "users", "version": "1.2", "zone": "b", "weight": 2}
    [one, two, three] = instances(
        [
            {"targets": ["10.0.0.1:80", "[fd00::1]:81"], "labels": labels},
            {"targets": ["host.example:82"], "labels": {"service": "orders"}},
            {"targets": []},
            {"targets": None, "labels": {"service": "users"}},
        ]
    )
    assert (one.service, one.id, one.version, one.weight) == ("users", "10.0.0.1:80", "1.2", 2)
    assert one.metadata == {"version": "1.2", "zone": "b", "weight": "2"}
    assert (two.address, two.port) == ("fd00::1", 81)
    assert (three.service, three.address) == ("orders", "host.example")


def test_a_target_may_be_a_record_whose_own_metadata_win() -> None:
    record = {"address": "10.0.0.1", "port": 80}
    targets = [record | {"id": id_, "metadata": own} for id_, own in (("a", {"z": 1}), ("b", None))]
    labels = {"service": "users", "z": "b"}
    found = instances([{"targets": targets, "labels": labels}])
    assert [(one.id, one.metadata) for one in found] == [("a", {"z": "1"}), ("b", {"z": "b"})]


@pytest.mark.parametrize("document", [{}, [], {"users": []}, {"users": None}])
def test_an_empty_list_is_one(document: object) -> None:
    assert records(document) == {}


@pytest.mark.parametrize("odd", ["NaN", "-Infinity", "1e999", r'"a\ud83d"', '"a\nb"'])
def test_numbers_and_texts_beyond_strict_json_harm_no_more_than_their_record(odd: str) -> None:
    body = f'{{"users": [{{"address": "10.0.0.1", "port": {odd}}}, "10.0.0.2:80"]}}'
    found = decoded(body.encode())
    assert list(complaints(found)) == [next(iter(records(found))).decode()]
    assert read_record(b"users/10.0.0.2:80", records(found)[b"users/10.0.0.2:80"])
    body = f'{{"users": [{{"address": "10.0.0.1", "port": 80, "metadata": {{"x": {odd}}}}}]}}'
    assert len(instances(decoded(body.encode()))) == 1


@pytest.mark.parametrize(
    ("document", "place", "reason"),
    [
        ({"users": ["10.0.0.1"]}, "a.yaml: users[0]", "'10.0.0.1' is not host:port"),
        ({"users": [7]}, "a.yaml: users[0]", "'7' is neither a record nor host:port"),
        ({"users": ["a:1", "a:1"]}, "a.yaml: users[1]", "users has another a:1"),
        ({"users": [{"port": 80, "id": "a"}]}, "users/a", "no address in the value"),
        ([{"targets": ["a:1"]}], "a.yaml: [0].targets[0]", "there is no label 'service'"),
        ([{"targets": ["a"], "labels": {"service": "users"}}], "a.yaml: [0].targets[0]", "'a' is"),
    ],
)
def test_an_item_that_is_no_record_is_told_with_its_place_and_harms_no_other(
    document: object, place: str, reason: str
) -> None:
    found = complaints(document)
    assert list(found) == [place]
    assert found[place].startswith(reason)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("users", "is neither a mapping"),
        (None, "is neither a mapping"),
        ({"users": "10.0.0.1:80"}, "has no list under 'users'"),
        ([{"labels": {}}], r"has no list of targets in \[0\]"),
        (["10.0.0.1:80"], r"has no list of targets in \[0\]"),
    ],
)
def test_a_document_of_another_form_is_none_at_all(document: object, reason: str) -> None:
    with pytest.raises(NoList, match=reason):
        records(document)
