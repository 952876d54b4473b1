"""Paths of the admin API."""

from __future__ import annotations

import pytest

from proxy.control.admin_paths import BadPath, Paths, split_target

PATHS = Paths(
    {
        "/": {"GET": "index"},
        "/services": {"GET": "services"},
        "/services/{service}": {"GET": "service", "DELETE": "forget"},
        "/services/{service}/instances/{id}/drain": {"POST": "drain"},
    }
)


def names(path: str) -> tuple[str, ...] | None:
    found = PATHS.find(path)
    return None if found is None else found.names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ()),
        ("/services", ()),
        ("/services/users", ("users",)),
        ("/services/users/instances/a/drain", ("users", "a")),
        ("/%73ervices/users", ("users",)),
        ("/services/..", ("..",)),
        ("/services/%2e%2E", ("..",)),
        ("/services/a{b}c", ("a{b}c",)),
        ("/services/a+b", ("a+b",)),
        ("/services/a%252Fb", ("a%2Fb",)),
        ("/services/gr%C3%B6%C3%9Fe", ("größe",)),
        ("/services/größe", ("größe",)),
        ("/services/", None),
        ("/services/users/", None),
        ("/services//instances/a/drain", None),
        ("//services", None),
        ("/nothing", None),
        ("", None),
        ("*", None),
        ("example.com:443", None),
    ],
)
def test_a_path_leads_to_its_names(path: str, expected: tuple[str, ...] | None) -> None:
    assert names(path) == expected


@pytest.mark.parametrize("name", ["%FF", "a%C3", "%C3%28", "\udcff", "%ED%A0%80", "%", "%4", "%zz"])
def test_names_that_there_cannot_be(name: str) -> None:
    with pytest.raises(BadPath):
        PATHS.find(f"/services/{name}")


def test_the_methods_of_a_path() -> None:
    found = PATHS.find("/services/users")
    assert found is not None
    assert found.allow == "DELETE, GET, HEAD, OPTIONS"
    drain = PATHS.find("/services/a/instances/b/drain")
    assert drain is not None
    assert drain.allow == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("target", "authority", "path"),
    [
        ("/a?b=/c", None, "/a"),
        ("/a#b?c", None, "/a"),
        ("/a?u=http://b/c", None, "/a"),
        ("http://h:1/a?b", "h:1", "/a"),
        ("HTTP://h", "h", "/"),
        ("http://h?x", "h", "/"),
        ("http://evil@h/a", "h", "/a"),
        ("*", None, "*"),
        ("h:443", None, "h:443"),
    ],
)
def test_targets(target: str, authority: str | None, path: str) -> None:
    assert split_target(target) == (authority, path)
