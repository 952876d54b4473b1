"""`jwt`: which tokens hold, and attacks of which each is refused."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from hmac import digest
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.filters.jwt import keys_of
from proxy.settings.route import RouteSpec
from tests.support.filters import spec
from tests.support.wire import request
from tests.wire.scenes import answered

HOUR = 3600.0
SECRET = b"0123456789abcdef0123456789abcdef"


class Signers:
    """The private keys of the issuer, and one of somebody else's."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self.evil = rsa.generate_private_key(65537, 2048)

    def jwks(self) -> dict[str, Any]:
        """What the issuer publishes, and a secret that both know."""

        def public(key: Any, algorithm: Any, id: str) -> dict[str, Any]:
            return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": id}

        algorithms = jwt.algorithms.get_default_algorithms()
        secret = urlsafe_b64encode(SECRET).rstrip(b"=").decode()
        return {
            "keys": [
                public(self.rsa, algorithms["RS256"], "r"),
                public(self.ec, algorithms["ES256"], "e"),
                public(self.ed, algorithms["EdDSA"], "d"),
                {"kty": "oct", "k": secret, "kid": "o", "alg": "HS256"},
            ]
        }


@cache
def signers() -> Signers:
    return Signers()


def claims(**changed: Any) -> dict[str, Any]:
    """Claims that hold, and what is different about them; None: left out."""
    all_ = {"iss": "us", "aud": "api", "sub": "ann", "exp": time() + HOUR, **changed}
    return {name: value for name, value in all_.items() if value is not None}


def token(
    algorithm: str = "RS256", key: Any = None, header: dict[str, Any] | None = None, **changed: Any
) -> str:
    ours = {"RS": signers().rsa, "PS": signers().rsa, "ES": signers().ec, "Ed": signers().ed}
    key = key or ours.get(algorithm[:2], SECRET)
    return jwt.encode(claims(**changed), key, algorithm, header)


def part(content: Any) -> str:
    return urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def unsigned(header: dict[str, Any], signature: str = "") -> str:
    return f"{part(header)}.{part(claims())}.{signature}"


def confused(secret: bytes) -> str:
    """A token whose signature is made with a public key, as if that were a secret."""
    text = f"{part({'alg': 'HS256', 'kid': 'r'})}.{part(claims())}"
    made = urlsafe_b64encode(digest(secret, text.encode(), sha256)).rstrip(b"=").decode()
    return f"{text}.{made}"


def pem() -> bytes:
    return signers().rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def modulus() -> bytes:
    return urlsafe_b64decode(signers().jwks()["keys"][0]["n"] + "==")


def own_jwk() -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm
    own: dict[str, Any] = algorithm.to_jwk(signers().evil.public_key(), as_dict=True)
    return own


def filtered(make: Any, tmp_path: Path, **settings: Any) -> Any:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(signers().jwks()))
    all_ = {
        "jwks_file": str(file),
        "algorithms": ["RS256", "ES256", "EdDSA", "HS256", "PS256"],
        "issuer": "us",
        "audience": "api",
        "leeway": HOUR / 2,
        "claims_to_headers": {"sub": "X-Login", "groups": "X-Groups"},
        **settings,
    }
    return make(routes=(RouteSpec(service="s", filters=(spec("jwt", **all_),)),))


def bearer(text: str, scheme: str = "Bearer") -> str:
    return f"Authorization: {scheme} {text}"


GOOD: dict[str, Callable[[], str]] = {
    "rsa": token,
    "rsa_by_name": lambda: token(header={"kid": "r"}),
    "pss": lambda: token("PS256"),
    "ec": lambda: token("ES256", header={"kid": "e"}),
    "ed25519": lambda: token("EdDSA"),
    "secret": lambda: token("HS256", header={"kid": "o"}),
    "one_of_several_audiences": lambda: token(aud=["web", "api"]),
    "a_little_late": lambda: token(exp=time() - HOUR / 4),
    "a_little_early": lambda: token(nbf=time() + HOUR / 4),
    "until_beyond_what_floats_hold": lambda: token(exp=10**400),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_token_that_holds(make: Any, tmp_path: Path, name: str) -> None:
    wire = filtered(make, tmp_path)
    client = wire.client()
    smuggled = ("X-Login: root", "x_login: root", "X.Login: root", "X-Groups: wheel")
    client.send(request("GET /x", bearer(GOOD[name]()), *smuggled))
    a = wire.connected()
    got = a.take()
    assert b"\r\nX-Login: ann\r\n" in got
    assert b"root" not in got
    assert b"wheel" not in got
    answered(client, a)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ("staff", "staff"),
        (["a", "b c"], "a,b c"),
        ([True, 1.5, {"a": None}], 'true,1.5,{"a": null}'),
        ({"a": [1]}, '{"a": [1]}'),
        (False, "false"),
        ("Łęk\xa0می\u200cخواهم", "Łęk\xa0می\u200cخواهم"),
    ],
)
def test_a_claim_as_it_is_told(make: Any, tmp_path: Path, groups: Any, told: str) -> None:
    wire = filtered(make, tmp_path)
    client = wire.client()
    client.send(request("GET /x", bearer(token(groups=groups))))
    a = wire.connected()
    assert f"\r\nX-Groups: {told}\r\n".encode() in a.take()
    answered(client, a)


ATTACKS: dict[str, Callable[[], str]] = {
    "alg_none": lambda: unsigned({"alg": "none"}),
    "alg_none_in_another_case": lambda: unsigned({"alg": "nOnE", "kid": "r"}),
    "alg_none_with_a_signature": lambda: unsigned({"alg": "none"}, token().rpartition(".")[2]),
    "no_alg": lambda: unsigned({"typ": "JWT"}),
    "alg_that_is_a_list": lambda: unsigned({"alg": ["RS256"]}),
    "alg_that_is_not_in_the_list": lambda: token("RS512"),
    "public_key_as_a_secret_in_pem": lambda: confused(pem()),
    "public_key_as_a_secret_in_pem_stripped": lambda: confused(pem().strip()),
    "public_key_as_a_secret_by_its_modulus": lambda: confused(modulus()),
    "no_signature": lambda: token().rpartition(".")[0] + ".",
    "zeros_as_a_signature": lambda: unsigned({"alg": "ES256", "kid": "e"}, "A" * 86),
    "signature_of_another_token": lambda: (
        f"{token(sub='root').rpartition('.')[0]}.{token().rpartition('.')[2]}"
    ),
    "somebody_elses_key": lambda: token(key=signers().evil),
    "somebody_elses_key_under_our_name": lambda: token(key=signers().evil, header={"kid": "r"}),
    "key_in_the_header": lambda: token(key=signers().evil, header={"jwk": own_jwk()}),
    "key_at_a_url": lambda: token(key=signers().evil, header={"jku": "http://evil.example/k"}),
    "name_of_another_key": lambda: token(header={"kid": "e"}),
    "name_of_no_key": lambda: token(header={"kid": "../../../dev/null"}),
    "name_that_is_none": lambda: f"{part({'alg': 'RS256', 'kid': 7})}.e30.AA",
    "expired": lambda: token(exp=time() - HOUR),
    "not_yet_valid": lambda: token(nbf=time() + HOUR),
    "no_exp": lambda: token(exp=None),
    "exp_that_is_text": lambda: token(exp=str(time() + HOUR)),
    "exp_that_is_true": lambda: token(exp=True),
    "exp_that_is_no_number": lambda: token(exp=float("nan")),
    "other_issuer": lambda: token(iss="them"),
    "no_issuer": lambda: token(iss=None),
    "other_audience": lambda: token(aud="apis"),
    "no_audience": lambda: token(aud=None),
    "audience_as_part_of_a_text": lambda: token(aud="the api"),
    "demands": lambda: token(header={"crit": ["exp"]}),
    "unencoded_payload": lambda: token(header={"b64": False, "crit": ["b64"]}),
    "four_parts": lambda: token() + ".x",
    "nothing": lambda: "",
    "nested_header": lambda: urlsafe_b64encode(b"[" * 9000).decode() + ".e30.AA",
    "nested_claims": lambda: jwt.PyJWS().encode(b"[" * 10_000, signers().rsa, "RS256"),
    "line_break_in_a_claim": lambda: token(sub="ann\r\nX-Admin: 1"),
    "list_with_a_line_break": lambda: token(groups=["a", "b\r\n"]),
    "nul_in_a_claim": lambda: token(sub="ann\0"),
    "half_a_character_in_a_claim": lambda: token(sub="ann\ud800"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_token_that_does_not_hold(make: Any, tmp_path: Path, name: str) -> None:
    wire = filtered(make, tmp_path)
    client = wire.client()
    client.send(request("GET /x", bearer(ATTACKS[name]()), "X-Login: root"))
    head = client.expect_problem(401, "unauthorised")
    assert b'\r\nWWW-Authenticate: Bearer error="invalid_token"\r\n' in head
    wire.expect_no_dial()


@pytest.mark.parametrize("others", [["two"], ["other_scheme"], ["basic"], []])
def test_a_request_without_its_one_token(make: Any, tmp_path: Path, others: list[str]) -> None:
    lines = {
        "two": [bearer(token()), bearer(token(sub="eve"))],
        "other_scheme": [bearer(token(), "Token")],
        "basic": ["Authorization: Basic YTpi"],
    }
    wire = filtered(make, tmp_path)
    client = wire.client()
    client.send(request("GET /x", *(line for name in others for line in lines[name])))
    head = client.expect_problem(401, "unauthorised")
    assert b"\r\nWWW-Authenticate: Bearer\r\n" in head


def test_keys_are_rotated_by_their_file_and_none_lets_nobody_pass(
    make: Any, tmp_path: Path
) -> None:
    wire = filtered(make, tmp_path, jwks_file=str(tmp_path / "new.json"))
    client = wire.client()
    client.send(request("GET /x", bearer(token())))
    client.expect_problem(503, "auth_unavailable")
    own = {**own_jwk(), "kid": "r"}
    (tmp_path / "new.json").write_text(json.dumps({"keys": [own]}))
    wire.advance(2.5)
    client.send(request("GET /x", bearer(token())))
    client.expect_problem(401, "unauthorised")
    client.send(request("GET /x", bearer(token(key=signers().evil))))
    a = wire.connected()
    a.take()
    answered(client, a)
    good = token(key=signers().evil)
    (tmp_path / "new.json").write_text("{}")
    wire.advance(2.5)
    for _ in range(2):
        client.send(request("GET /x", bearer(good)))
        a.take()
        answered(client, a)
    (tmp_path / "new.json").write_text(json.dumps(signers().jwks()))
    wire.advance(2.5)
    client.send(request("GET /x", bearer(good)))  # However well it is remembered.
    client.expect_problem(401, "unauthorised")


def test_a_remembered_token_expires_like_others(make: Any, tmp_path: Path) -> None:
    wire = filtered(make, tmp_path)
    client = wire.client()
    ask = request("GET /x", bearer(token(exp=time() - HOUR / 4)))
    for _ in range(2):
        client.send(ask)
        a = wire.connected()
        assert b"\r\nX-Login: ann\r\n" in a.take()
        answered(client, a)
        a.eof()
    wire.worker.services.filters._contexts[0].wall = lambda: time() + HOUR / 2
    client.send(ask)
    client.expect_problem(401, "unauthorised")


@pytest.mark.parametrize(
    "changed",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"alg": "HS256"},
        {"alg": "none"},
        {"kty": "EC"},
        {"n": "AQAB"},
        {"kty": "oct", "k": "c2hvcnQ"},
    ],
)
def test_a_key_that_is_not_for_signatures_or_too_short_is_none(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no key that can be used"):
        keys_of(json.dumps({"keys": [{**own_jwk(), **changed}]}).encode())


@pytest.mark.parametrize(
    "other", [7, None, "RSA", {"kty": "oct"}, {"kty": "oct", "key_ops": None}, {"kty": ["RSA"]}]
)
def test_a_member_of_the_set_that_is_no_key_does_not_harm_the_others(other: Any) -> None:
    keys = [other, {**own_jwk(), "kid": "r"}, other]
    assert [key.id for key in keys_of(json.dumps({"keys": keys}).encode())] == ["r"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 7}', "[" * 60_000, "\xff"])
def test_a_text_that_is_no_set_of_keys(text: str) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        keys_of(text.encode("latin-1"))
