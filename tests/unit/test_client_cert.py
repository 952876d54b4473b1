"""Fields that tell instances of a client's certificate: pure, against the text of RFC 9440."""

from __future__ import annotations

import base64
import hashlib
import ssl
from urllib.parse import unquote

import pytest

from proxy.http.client_cert import rfc9440, xfcc

LEAF, ABOVE = b"\x30\x82leaf", b"\x30\x82above"


def test_rfc9440_has_the_certificate_as_a_byte_sequence_and_the_chain_without_it() -> None:
    assert rfc9440([LEAF]) == b"Client-Cert: :MIJsZWFm:\r\n"
    assert rfc9440([LEAF, ABOVE, LEAF]) == (
        b"Client-Cert: :MIJsZWFm:\r\nClient-Cert-Chain: :MIJhYm92ZQ==:, :MIJsZWFm:\r\n"
    )


def test_xfcc_has_what_envoy_writes() -> None:
    parsed = {
        "subject": ((("countryName", "DE"),), (("organizationName", "A"), ("commonName", "x"))),
        "subjectAltName": (("DNS", "a.example"), ("URI", "spiffe://d/s;x"), ("email", "no")),
    }
    line = xfcc([LEAF, ABOVE], parsed).decode()
    name, _, value = line.removesuffix("\r\n").partition(": ")
    assert name == "X-Forwarded-Client-Cert"
    hashed, cert, chain, subject, dns, uri = value.split(";")
    assert hashed == f"Hash={hashlib.sha256(LEAF).hexdigest()}"
    pem = unquote(cert.removeprefix('Cert="').removesuffix('"'))
    assert ssl.PEM_cert_to_DER_cert(pem) == LEAF
    assert unquote(chain).count("BEGIN CERTIFICATE") == 2
    assert base64.b64encode(ABOVE).decode() in unquote(chain)
    assert (subject, dns, uri) == (
        'Subject="O=A+CN=x,C=DE"', "DNS=a.example", "URI=spiffe://d/s%3Bx",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a, b", r"CN=a\\, b"),
        ('say "x"', r"CN=say \\\"x\\\""),
        ("x;y", r"CN=x\\;y"),
        (" a ", r"CN=\\ a\\ "),
        ("#a", r"CN=\\#a"),
        ("Zoë", r"CN=Zo\\C3\\AB"),
        ("a\r\nb", r"CN=a\\0D\\0Ab"),
    ],
)
def test_subjects_cannot_leave_their_quotes(value: str, written: str) -> None:
    line = xfcc([LEAF], {"subject": ((("commonName", value),),)})
    assert line.decode().split(";Subject=")[1] == f'"{written}"\r\n'
