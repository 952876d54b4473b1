"""Contexts by what their handshakes do. Everything is in memory."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import pytest

from proxy.tls import openssl
from proxy.tls.contexts import Pair, ServerPolicy, client_context, load_pair, server_context
from tests.support.certificates import Authority, Made, key_pem, private_key

AUTHORITY = Authority()
PAIR = AUTHORITY.issue("a.example")
CLIENT = Authority("clients")
KEYS, CONTEXT = bytes(range(80)), b"listener"


class Ends:
    """Both ends of a handshake in memory, and a byte each way, so that tickets are there."""

    def __init__(
        self,
        server: ssl.SSLContext,
        client: ssl.SSLContext,
        session: ssl.SSLSession | None = None,
        name: str = "a.example",
    ) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(down, up, server_hostname=name, session=session)
        self.server = server.wrap_bio(up, down, server_side=True)
        for end in (self.client, self.server, self.client, self.server, self.client):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        self.server.write(b"x")
        assert self.client.read(1) == b"x"
        self.client.write(b"y")
        assert self.server.read(1) == b"y"


def trusting(cert: bytes = b"", key: bytes = b"") -> ssl.SSLContext:
    return client_context(AUTHORITY.ca, cert, key)


def server(pairs: Sequence[Pair] = (PAIR,), **policy: object) -> ssl.SSLContext:
    return server_context(pairs, ServerPolicy(**policy))  # type: ignore[arg-type]


def shared(**policy: object) -> ssl.SSLContext:
    return server(**{"ticket_keys": KEYS, "session_context": CONTEXT, **policy})  # type: ignore[arg-type]


def at_most(version: ssl.TLSVersion, context: ssl.SSLContext) -> ssl.SSLContext:
    context.maximum_version = version
    return context


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def test_everything_is_available_here() -> None:
    assert openssl.unavailable() == ""


class NoGroups(openssl._OpenSSL):
    def limit(self, context: ssl.SSLContext) -> bool:
        return True


class NoTickets(openssl._OpenSSL):
    def share(self, context: ssl.SSLContext, keys: bytes, session_context: bytes) -> bool:
        return True


class NoPolicies(openssl._OpenSSL):
    def share(self, context: ssl.SSLContext, keys: bytes, session_context: bytes) -> bool:
        return super().share(context, keys, b"")


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (NoGroups, "groups have no effect"),
        (NoTickets, "ticket keys have no effect"),
        (NoPolicies, "tickets pass from one policy to another"),
    ],
)
def test_the_self_test_finds_what_has_no_effect(library: type[openssl._OpenSSL], said: str) -> None:
    assert openssl._problem(library()) == said


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_trusts_the_authority_is_served(version: ssl.TLSVersion) -> None:
    ends = Ends(server(alpn=("h2", "http/1.1")), at_most(version, trusting()))
    assert ends.client.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(
        PAIR.cert.removesuffix(PAIR.above).decode()
    )


def test_protocols_are_in_the_order_of_the_server() -> None:
    client = trusting()
    client.set_alpn_protocols(["http/1.1", "h2"])
    ends = Ends(server(alpn=("h2", "http/1.1")), client)
    assert ends.server.selected_alpn_protocol() == "h2"


def test_one_context_has_certificates_of_several_kinds() -> None:
    both = server((PAIR, AUTHORITY.issue("a.example", kind="rsa")))
    for suites, kind in (("ECDHE+aRSA", "RSA"), ("ECDHE+aECDSA", "ECDSA")):
        client = at_most(ssl.TLSVersion.TLSv1_2, trusting())
        client.set_ciphers(suites)
        cipher = Ends(both, client).client.cipher()
        assert cipher is not None
        assert kind in cipher[0]


def test_versions() -> None:
    Ends(server(min_version="1.3"), trusting())
    with pytest.raises(ssl.SSLError):
        Ends(server(min_version="1.3"), at_most(ssl.TLSVersion.TLSv1_2, trusting()))
    with pytest.raises(ssl.SSLError):
        Ends(
            at_most(ssl.TLSVersion.TLSv1_2, server()),
            client_context(AUTHORITY.ca, min_version="1.3"),
        )


def suites(ciphers: str) -> set[str]:
    return {one["name"] for one in server(ciphers=ciphers).get_ciphers()}


def test_ciphers() -> None:
    modern, compatible = suites("modern"), suites("compatible")
    assert {name for name in modern if not name.startswith("TLS_")} == {
        f"ECDHE-{kind}-{cipher}"
        for kind in ("RSA", "ECDSA")
        for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    }
    assert modern < compatible
    assert all(name.startswith(("ECDHE-", "TLS_")) for name in compatible)
    assert "ECDHE-RSA-AES128-SHA" in compatible
    one = suites("ECDHE-RSA-AES128-GCM-SHA256")
    assert [name for name in one if not name.startswith("TLS_")] == ["ECDHE-RSA-AES128-GCM-SHA256"]


# --------------------------------------------------------------------------------- groups


HYBRID = pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO < (3, 5), reason="OpenSSL is before 3.5")


@pytest.mark.parametrize(
    "group", ["X25519", "P-256", "P-384", pytest.param("X25519MLKEM768", marks=HYBRID)]
)
def test_a_client_may_insist_on_a_group_of_ours(group: str) -> None:
    Ends(server(), offering(group))


@pytest.mark.parametrize("group", ["ffdhe2048", "ffdhe8192", "P-521", "X448"])
def test_a_client_that_offers_none_of_our_groups_is_refused(group: str) -> None:
    if group != "ffdhe8192" or ssl.OPENSSL_VERSION_INFO < (3, 5):  # It is no default since then.
        Ends(ssl_of_python(), offering(group))
    with pytest.raises(ssl.SSLError):
        Ends(server(), offering(group))


def ssl_of_python() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, PAIR.cert, PAIR.key)
    return context


def offering(group: str) -> ssl.SSLContext:
    context = client_context(AUTHORITY.ca, min_version="1.3")
    library = openssl._OpenSSL()
    assert library.ctrl(openssl._pointer(context), openssl._SET_GROUPS_LIST, 0, group.encode())
    return context


# ------------------------------------------------------------------------------- sessions


def is_resumed(
    first: ssl.SSLContext, second: ssl.SSLContext, client: ssl.SSLContext | None = None
) -> bool:
    client = client or trusting()
    session = Ends(first, client).client.session
    return bool(Ends(second, client, session).client.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
class TestSessions:
    def test_are_resumed_where_keys_and_policy_are_the_same(self, version: ssl.TLSVersion) -> None:
        assert is_resumed(shared(), shared(), at_most(version, trusting()))

    def test_are_not_resumed_under_another_policy(self, version: ssl.TLSVersion) -> None:
        for other in ({"session_context": b"other"}, {"ticket_keys": bytes(80)}):
            assert not is_resumed(shared(), shared(**other), at_most(version, trusting()))

    def test_without_keys_each_context_has_its_own(self, version: ssl.TLSVersion) -> None:
        context = server()
        assert is_resumed(context, context, at_most(version, trusting()))
        assert not is_resumed(context, server(), at_most(version, trusting()))

    def test_may_be_switched_off(self, version: ssl.TLSVersion) -> None:
        context = shared(tickets=False)
        assert not is_resumed(context, context, at_most(version, trusting()))

    def test_of_a_listener_for_everybody_let_nobody_in(self, version: ssl.TLSVersion) -> None:
        strict = shared(client_ca=CLIENT.ca, session_context=b"strict")
        client = at_most(version, trusting())
        session = Ends(shared(), client).client.session
        with pytest.raises(ssl.SSLError):
            Ends(strict, client, session)


def test_keys_need_their_size_and_a_policy() -> None:
    for keys, context in ((bytes(79), CONTEXT), (KEYS, b"")):
        with pytest.raises(ValueError, match="ticket keys are 80 bytes"):
            server(ticket_keys=keys, session_context=context)


# --------------------------------------------------------------------- client certificates


def mine(authority: Authority = CLIENT) -> ssl.SSLContext:
    made = authority.issue("client", number=2)
    return trusting(made.cert, made.key)


@pytest.mark.parametrize("version", VERSIONS)
def test_certificates_of_clients(version: ssl.TLSVersion) -> None:
    required = server(client_ca=CLIENT.ca)
    requested = server(client_ca=CLIENT.ca, client_auth="request")
    for context in (required, requested):
        assert Ends(context, at_most(version, mine())).server.getpeercert(binary_form=True)
        with pytest.raises(ssl.SSLError):
            Ends(context, at_most(version, mine(AUTHORITY)))
    assert Ends(requested, at_most(version, trusting())).server.getpeercert() is None
    with pytest.raises(ssl.SSLError):
        Ends(required, at_most(version, trusting()))


# -------------------------------------------------------------------------------- clients


def test_a_client_verifies_authority_and_name() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Ends(server(), client_context(CLIENT.ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        Ends(server(), trusting(), name="b.example")
    Ends(server(), client_context(verify=False), name="b.example")


def test_complaints_of_openssl_are_passed_on() -> None:
    other = AUTHORITY.issue("a.example", number=3)
    encrypted = key_pem(private_key("ec", 0), b"secret")
    for pair, policy, said in (
        (Made(PAIR.cert, other.key), {}, "key values mismatch"),
        (Made(PAIR.cert, encrypted), {}, "^PEM lib$"),
        (Made(PAIR.cert, b""), {}, "^PEM lib$"),
        (PAIR, {"client_ca": b"\xfc"}, "cadata does not contain a certificate"),
        (PAIR, {"ciphers": "none"}, "No cipher can be selected"),
    ):
        with pytest.raises(ValueError, match=said):
            server((pair,), **policy)
