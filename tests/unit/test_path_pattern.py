"""Which regular expressions are allowed for paths."""

from __future__ import annotations

import re

import pytest

from proxy.settings.path_pattern import PathPattern


@pytest.mark.parametrize(
    ("text", "beginning", "fitting", "others"),
    [
        (r"^/v(?P<v>[0-9]+)/", "/v", ["/v12/x"], ["/v/", "/v1"]),
        (r"^/users/(?P<id>[^/]+)/posts$", "/users/", ["/users/a/posts"], ["/users/a/posts/"]),
        (r"^/.*\.(?:jpg|jpeg|png)$", "/", ["/a.jpg/b.jpeg"], ["/a.jp", "/a.png/"]),
        (r"^/(?:[a-z]+/)+X?[0-9]{2,3}$", "/", ["/a/b/12", "/a/X123"], ["/12", "/a/X1"]),
        (r"^/(?:en|de)(?:/.*)?$", "/", ["/en", "/de/x"], ["/enx"]),
        (r"^/[a-z]*[0-9]*$", "/", ["/", "/a1"], ["/1a"]),
        (r"^/a\d\w[\]\-x-z]", "/a", ["/a1_]", "/a1_-", "/a1_y"], ["/a1_a"]),
        (r"^/\.\$", "/.$", ["/.$"], ["/."]),
        (r"^/[^a-c/.]+$", "/", ["/d"], ["/a", "/d/"]),
        (r"^/a{2}b?", "/", ["/aa"], ["/a"]),
        (r"^/(?:a(?:b[c]+d)e)f*", "/ab", ["/abccdeff", "/abcde"], ["/abde"]),
    ],
)  # fmt: skip
def test_a_pattern(text: str, beginning: str, fitting: list[str], others: list[str]) -> None:
    pattern = PathPattern(text)
    assert pattern.literals[0] == beginning
    assert all(pattern.compiled.match(path) for path in fitting)
    assert not any(pattern.compiled.match(path) for path in others)
    assert all(path.startswith(beginning) for path in fitting)
    assert all(literal in path for path in fitting for literal in pattern.literals)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("/x", "does not begin with ^/"),
        ("^/\u00e4", "characters that no path has"),
        ("^/" + "x" * 255, "longer than 256"),
        ("^/(a+)+$", "so that it can be read in very many ways"),
        ("^/(?:a|ab)*c", "repeats alternatives"),
        ("^/(?:ab?b)+", "repeats an option"),
        ("^/(a?)*", "repeats what may be empty"),
        ("^/.*.*x", "very many ways"),
        ("^/.*[a-z]+$", "very many ways"),
        ("^/(?:ab)*a", "very many ways"),
        ("^/a?a?a?a?a?a", "has 32 ways"),
        ("^/a|/b", "outside of a group"),
        ("^/(?=x)", "unknown kind of group"),
        (r"^/(a)\1", "alone"),
        (r"^/a\b", "alone"),
        ("^/x*?", "repeats a repetition"),
        ("^/x*+", "repeats a repetition"),
        ("^/x**", "repeats a repetition"),
        ("^/(x", "lacks a )"),
        ("^/x)", "a ) too many"),
        ("^/$$", "out of place"),
        ("^/x{,3}", "no count"),
        ("^/x{3,2}", "backwards"),
        ("^/x{2,999}", "beyond 256"),
        ("^/[z-a]", "bad range"),
        ("^/[a-", "bad range"),
        ("^/[]", "empty"),
        ("^/[a", "does not end"),
        ("^/[[:alpha:]]", "inside of []"),
        ("^/(?P<a>x)(?P<a>y)", "redefinition"),
    ],
)
def test_a_pattern_that_may_take_long_or_is_none_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        PathPattern(text)
