"""The service that a certificate names, as the two sides of a mesh look for it."""

from __future__ import annotations

import pytest

from proxy.tls.identity import service_of


@pytest.mark.parametrize(
    ("names", "service"),
    [
        ([("DNS", "users.mesh.local")], "users"),
        ([("DNS", "USERS.Mesh.local"), ("URI", "spiffe://mesh.local/users")], "users"),
        ([("URI", "spiffe://mesh.local/users"), ("DNS", "node7.internal")], "users"),
        ([("DNS", "users.v2.mesh.local")], "users.v2"),
        ([("DNS", "users.mesh.local"), ("DNS", "orders.mesh.local")], ""),
        ([("DNS", "*.mesh.local")], ""),
        ([("DNS", "mesh.local")], ""),
        ([("DNS", "usersmesh.local")], ""),
        ([("DNS", "users.mesh.local.evil.com")], ""),
        ([("URI", "spiffe://mesh.local/ns/default/sa/users")], ""),
        ([("URI", "spiffe://mesh.local/")], ""),
        ([("URI", "spiffe://other.local/users")], ""),
        ([("URI", "https://mesh.local/users")], ""),
        ([("email", "x@users.mesh.local"), ("IP Address", "10.0.0.1")], ""),
        ([], ""),
    ],
)
def test_a_certificate_names_one_service_of_the_domain_or_none(
    names: list[tuple[str, str]], service: str
) -> None:
    assert service_of({"subjectAltName": tuple(names)}, "mesh.local") == service


def test_a_subject_is_no_name() -> None:
    subject = ((("commonName", "users.mesh.local"),),)
    assert service_of({"subject": subject}, "mesh.local") == ""
