"""Secrets that registries are shown, and their refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.registry.base import Refused
from proxy.registry.rest import LARGEST_SECRET, Answered, Denied, Secret, basic, refusal


def test_a_secret_in_a_file_is_read_again_once_it_is_another_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    secret = Secret("", str(file))
    assert secret() == "one"
    other = tmp_path / "new"
    other.write_text("two")
    other.rename(file)
    assert secret() == "two"


@pytest.mark.parametrize("content", [b"a\nb", b"\xff", b"x" * (LARGEST_SECRET + 1)])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(Refused, match="token: "):
        Secret("", str(file))()


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nowhere"):
        Secret("", str(tmp_path / "nowhere"))()


def test_a_text_is_a_secret() -> None:
    assert Secret("one")() == "one"


def test_users_are_told_as_rfc_7617_has_it() -> None:
    assert basic("Aladdin", "open sesame") == {
        "Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    }
    assert basic("", "x") == {}


@pytest.mark.parametrize(("status", "kind"), [(401, Denied), (403, Denied), (500, Answered)])
def test_a_refusal_says_status_and_words(status: int, kind: type[Answered]) -> None:
    error = refusal(status, "/v1/x", b"rpc error:\n no leader" + b"." * 1000, {})
    assert type(error) is kind
    assert error.status == status
    assert str(error).startswith(f"/v1/x: status {status}: rpc error: no leader")
    assert len(str(error)) < 300


def test_a_redirection_says_where_it_leads() -> None:
    error = refusal(302, "", b"<html>", {"location": "/elsewhere"})
    assert str(error) == "status 302, which leads to '/elsewhere' and is not followed: <html>"
