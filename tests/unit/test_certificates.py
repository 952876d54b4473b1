"""Files of certificates and what becomes of them, in stepped time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.control import status
from proxy.control.certificate_files import Look, remarks
from proxy.control.certificates import (
    NEW_SECRET,
    PAUSE,
    CertificateError,
    Certificates,
    ticket_keys,
    unverified,
)
from proxy.control.watched_files import HOUR, PATIENCE
from proxy.messages import (
    MAX_CERTIFICATES,
    CertificateMessage,
    CertificatesApplied,
    UpstreamFiles,
)
from proxy.settings.file import Settings
from proxy.settings.listener import ListenerSettings
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.load import load, located
from proxy.settings.process import AdminSettings, AdminTls
from proxy.settings.service import PoolSettings
from proxy.settings.upstream_tls import UpstreamTls
from proxy.tls.certificates import CertificateFacts
from tests.support.certificates import DAY, LONG_AGO, NOW, Authority, Made

AUTHORITY = Authority()
A = AUTHORITY.issue("a.example")
B = AUTHORITY.issue("b.example", number=1)
RENEWED = AUTHORITY.issue("a.example", number=2)


def put(file: Path, content: bytes) -> None:
    """As those do who know how: a new file takes the place of the old one."""
    new = file.with_name(f".{file.name}")
    new.write_bytes(content)
    new.rename(file)


def put_pair(directory: Path, name: str, made: Made) -> None:
    put(directory / f"{name}.key", made.key)
    put(directory / f"{name}.pem", made.cert)


class Stage:
    """A proxy's TLS listeners, and the clock."""

    def __init__(
        self, *tls: ListenerTls, now: float = NOW, services: dict[str, UpstreamTls] | None = None
    ) -> None:
        names = ("https", "other")[: len(tls)]
        self.settings = Settings(
            listeners=(
                ListenerSettings(name="web"),
                *(ListenerSettings(name=n, tls=t) for n, t in zip(names, tls, strict=True)),
            ),
            services={name: PoolSettings(tls=one) for name, one in (services or {}).items()},
        )
        self.certificates = Certificates(self.settings)
        self.now = now
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.certificates.begin(self.looks(), now)

    def looks(self) -> list[Look]:
        return [one.looking()() for one in self.certificates.sections]

    def look(self, after: float = PAUSE) -> list[Any]:
        self.now += after
        messages, happened = self.certificates.step(self.looks(), self.now)
        self.told += happened
        return messages

    def what(self) -> list[str]:
        """Everything that was told since the last call."""
        told, self.told = self.told, []
        return [what for what, _ in told]

    @property
    def message(self) -> Any:
        return self.certificates.messages[0]

    def names(self) -> list[str]:
        return [name for pair in self.message.pairs for name in pair.names]


def pair_of(directory: Path, name: str) -> Certificate:
    return Certificate(cert=f"{directory / name}.pem", key=f"{directory / name}.key")


@pytest.fixture
def tls(tmp_path: Path) -> ListenerTls:
    """A pair, and a directory with another one."""
    certs = tmp_path / "certs"
    certs.mkdir()
    put_pair(tmp_path, "a", A)
    put_pair(certs, "b", B)
    return ListenerTls(
        certificates=(pair_of(tmp_path, "a"), Certificate(directory=str(certs))),
    )


# ------------------------------------------------------------------------------- renewal


def test_files_become_the_first_generation(tls: ListenerTls) -> None:
    stage = Stage(tls)
    message = stage.message
    assert (message.listener, message.generation, message.client_ca) == ("https", 1, b"")
    assert [(pair.cert, pair.key) for pair in message.pairs] == [(A.cert, A.key), (B.cert, B.key)]
    assert stage.names() == ["a.example", "b.example"]
    assert (len(message.ticket_keys), len(message.session_context)) == (80, 32)


def test_files_that_stay_as_they_are_send_nothing(tls: ListenerTls, tmp_path: Path) -> None:
    stage = Stage(tls)
    os.utime(tmp_path / "a.pem")
    assert [stage.look() for _ in range(3)] == [[], [], []]
    assert stage.what() == []
    assert stage.certificates.listeners[0].loads == {"loaded": 3}  # It was touched.


def test_a_renewed_pair_is_a_new_generation(tls: ListenerTls, tmp_path: Path) -> None:
    stage = Stage(tls)
    put_pair(tmp_path, "a", RENEWED)
    [message] = stage.look()
    assert (message.generation, message.pairs[0].cert) == (2, RENEWED.cert)
    assert message.ticket_keys == stage.message.ticket_keys
    assert stage.told == [
        ("certificates_changed", {"listener": "https", "generation": 2, "certificates": 2})
    ]


def test_a_pair_of_which_half_is_renewed_keeps_its_old_value(
    tls: ListenerTls, tmp_path: Path
) -> None:
    stage = Stage(tls)
    put(tmp_path / "a.pem", RENEWED.cert)
    assert [stage.look() for _ in range(PATIENCE)] == [[]] * PATIENCE
    assert stage.message.pairs[0].cert == A.cert
    put(tmp_path / "a.key", RENEWED.key)
    assert len(stage.look()) == 1
    assert stage.what() == ["certificates_changed"]


def test_a_pair_that_stays_unusable_is_told_of_each_hour(tls: ListenerTls, tmp_path: Path) -> None:
    stage = Stage(tls)
    (tmp_path / "a.key").unlink()
    for _ in range(PATIENCE):
        stage.look()
    assert stage.what() == []
    stage.look()
    fields = {
        "listener": "https",
        "file": str(tmp_path / "a.pem"),
        "problem": "key cannot be read (No such file or directory)",
    }
    assert stage.told == [("certificate_unusable", fields)]
    assert stage.look(HOUR - 1) == []
    assert stage.what() == ["certificate_unusable"]
    stage.look(1)
    assert stage.what() == ["certificate_unusable"]
    put(tmp_path / "a.key", A.key)
    assert stage.look() == []
    assert stage.what() == ["certificate_usable"]
    assert stage.certificates.listeners[0].states.values()
    assert not any(state.problem for state in stage.certificates.listeners[0].states.values())


def test_a_link_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    """As Kubernetes does it: the files are links through `..data`, which is renamed."""
    for name, made in (("one", A), ("two", RENEWED)):
        (tmp_path / name).mkdir()
        put_pair(tmp_path / name, "tls", made)
    (tmp_path / "..data").symlink_to("one")
    for ending in ("pem", "key"):
        (tmp_path / f"tls.{ending}").symlink_to(f"..data/tls.{ending}")
    stage = Stage(ListenerTls(certificates=(Certificate(directory=str(tmp_path)),)))
    assert stage.message.pairs[0].cert == A.cert
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert [message.pairs[0].cert for message in stage.look()] == [RENEWED.cert]


# ---------------------------------------------------------------------------------- ACME


def obtained(directory: Path, *names: str) -> ListenerTls:
    """A listener whose certificates are obtained; `names`: of the files."""
    files = tuple(str(directory / f"{name}.pem") for name in names)
    return ListenerTls(certificates=(Certificate(acme=True, files=files),))


def test_certificates_that_are_yet_to_be_obtained_are_waited_for(tmp_path: Path) -> None:
    stage = Stage(obtained(tmp_path, "a", "b"))
    assert stage.certificates.messages == []
    assert stage.look(HOUR) == []
    put(tmp_path / "b.pem", B.key + B.cert)
    [message] = stage.look()
    assert (message.generation, stage.names()) == (1, ["b.example"])
    put(tmp_path / "a.pem", A.key + A.cert)
    put(tmp_path / "c.pem", RENEWED.key + RENEWED.cert)  # Of a name that is no longer wanted.
    [message] = stage.look()
    assert (message.generation, stage.names()) == (2, ["a.example", "b.example"])
    assert stage.what() == ["certificates_changed"]


def test_a_certificate_that_was_obtained_and_is_gone_keeps_its_last_good_value(
    tmp_path: Path,
) -> None:
    put(tmp_path / "a.pem", A.key + A.cert)
    stage = Stage(obtained(tmp_path, "a"))
    (tmp_path / "a.pem").unlink()
    assert [stage.look() for _ in range(PATIENCE + 1)] == [[]] * (PATIENCE + 1)
    assert stage.what() == ["certificate_unusable"]
    put(tmp_path / "a.pem", RENEWED.key + RENEWED.cert)
    [message] = stage.look()
    assert message.pairs[0].cert == RENEWED.cert


def test_a_spoilt_file_of_what_was_obtained_is_no_reason_not_to_start(tmp_path: Path) -> None:
    put(tmp_path / "a.pem", b"")
    assert Stage(obtained(tmp_path, "a")).certificates.messages == []


def test_a_certificate_that_lives_for_days_is_warned_about_late(tmp_path: Path) -> None:
    made = AUTHORITY.issue("a.example", not_before=NOW, not_after=NOW + 10 * DAY)
    put(tmp_path / "a.pem", made.key + made.cert)
    stage = Stage(obtained(tmp_path, "a"))
    stage.look(7.9 * DAY)
    assert stage.what() == []
    stage.look(0.2 * DAY)
    assert stage.what() == ["certificate_expires_soon"]


# --------------------------------------------------------------------------- directories


def test_a_directory_gains_and_loses_pairs(tls: ListenerTls, tmp_path: Path) -> None:
    stage = Stage(tls)
    put_pair(tmp_path / "certs", "a", AUTHORITY.issue("c.example"))
    (tmp_path / "certs/README").write_text("not a certificate")
    (tmp_path / "certs/.hidden.pem").write_text("not a certificate")
    assert len(stage.look()) == 1
    assert stage.names() == ["a.example", "c.example", "b.example"]
    (tmp_path / "certs/b.pem").unlink()
    assert len(stage.look()) == 1
    assert stage.names() == ["a.example", "c.example"]


def test_a_bad_pair_of_a_directory_harms_no_other(tls: ListenerTls, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    put(certs / "0.pem", A.cert)
    stage = Stage(tls)
    put_pair(certs, "b", RENEWED)
    put(certs / "c.pem", b"nothing")
    put(certs / "c.key", b"nothing")
    assert len(stage.look()) == 1
    assert stage.names() == ["a.example", "a.example"]
    for _ in range(PATIENCE):
        stage.look()
    about = [(what, fields.get("problem")) for what, fields in stage.told[1:]]
    assert about == [
        ("certificate_unusable", "key cannot be read (No such file or directory)"),
        ("certificate_unusable", "cert holds no certificate in PEM"),
    ]


def test_a_reload_takes_no_last_good_value_away(tls: ListenerTls, tmp_path: Path) -> None:
    put_pair(tmp_path / "certs", "c", AUTHORITY.issue("c.example"))
    put(tmp_path / "d.pem", RENEWED.key + RENEWED.cert)
    acme = obtained(tmp_path, "d").certificates
    stage = Stage(replace(tls, certificates=(*tls.certificates, *acme)))
    (tmp_path / "certs/b.key").unlink()  # Half of a renewal.
    (tmp_path / "d.pem").unlink()
    put_pair(tmp_path, "e", AUTHORITY.issue("e.example"))
    new, before = (pair_of(tmp_path, "e"),), stage.settings.listeners[1]
    https = replace(before, tls=replace(before.tls, certificates=new + before.tls.certificates))
    for settings in (replace(stage.settings, listeners=(https,)), stage.settings):
        stage.certificates = stage.certificates.successor(settings)
        stage.certificates.begin(stage.looks(), stage.now)
        names = ["a.example", "b.example", "c.example", "a.example"]
        assert stage.names() == ["e.example"] * (settings is not stage.settings) + names
    (tmp_path / "certs/b.pem").unlink()
    assert len(stage.look()) == 1
    assert "b.example" not in stage.names()


@pytest.mark.parametrize("how", ["empty", "gone"])
def test_a_directory_that_is_away_keeps_its_pairs(
    tls: ListenerTls, tmp_path: Path, how: str
) -> None:
    stage = Stage(tls)
    (tmp_path / "certs").rename(tmp_path / "away")
    if how == "empty":
        (tmp_path / "certs").mkdir()
    assert [stage.look() for _ in range(PATIENCE + 1)] == [[]] * (PATIENCE + 1)
    assert stage.names() == ["a.example", "b.example"]
    assert set(stage.what()) == {"certificate_unusable"}
    if how == "empty":
        (tmp_path / "certs").rmdir()
    (tmp_path / "away").rename(tmp_path / "certs")
    assert stage.look() == []
    assert set(stage.what()) == {"certificate_usable"}


# ------------------------------------------------------------------------------- sessions


def clients(tmp_path: Path, **more: Any) -> ListenerTls:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.ca)
    put_pair(tmp_path, "a", A)
    ca = str(tmp_path / "ca.pem")
    return ListenerTls(certificates=(pair_of(tmp_path, "a"),), client_ca=ca, **more)


def test_ticket_keys_live_twelve_hours(tls: ListenerTls) -> None:
    stage = Stage(tls)
    old = stage.message
    assert stage.look(NEW_SECRET - 1) == []
    [new] = stage.look(1)
    assert new.ticket_keys != old.ticket_keys
    assert (new.generation, new.pairs, new.session_context) == (2, old.pairs, old.session_context)
    assert stage.what() == []  # A matter of course.


def test_ticket_keys_are_those_of_the_policy(tmp_path: Path) -> None:
    strict, lax = clients(tmp_path), clients(tmp_path, client_auth="request")
    stage = Stage(strict, lax)
    one, other = (files.message for files in stage.certificates.listeners)
    assert one is not None
    assert other is not None
    assert one.client_ca == other.client_ca == AUTHORITY.ca
    assert one.ticket_keys != other.ticket_keys
    assert one.session_context != other.session_context
    put(tmp_path / "ca.pem", Authority("others").ca)
    assert len(stage.look()) == 2
    for old, files in zip((one, other), stage.certificates.listeners, strict=True):
        new = files.message
        assert new is not None
        assert (new.ticket_keys, new.session_context) != (old.ticket_keys, old.session_context)
        assert new.ticket_keys != old.ticket_keys
    put(tmp_path / "ca.pem", b"nothing")
    assert stage.look() == []


def test_ticket_keys_differ_in_every_part() -> None:
    one, other = ticket_keys(b"s", b"policy"), ticket_keys(b"s", b"other")
    assert len(one) == 80
    for part in (slice(0, 16), slice(16, 48), slice(48, 80)):
        assert one[part] != other[part]


def test_without_tickets_there_are_no_keys(tmp_path: Path) -> None:
    stage = Stage(clients(tmp_path, tickets=False))
    assert stage.message.ticket_keys == b""
    assert stage.look(NEW_SECRET) == []


# --------------------------------------------------------------------------- to instances


def to_instances(directory: Path, **more: Any) -> UpstreamTls:
    """A pair and an authority, which are put there."""
    put_pair(directory, "proxy", A)
    put(directory / "ca.pem", AUTHORITY.ca)
    names = {"ca": "ca.pem", "cert": "proxy.pem", "key": "proxy.key"}
    return UpstreamTls(
        mode="on", **{key: str(directory / name) for key, name in names.items()}, **more
    )


def test_files_of_services_are_told_by_their_names(tmp_path: Path) -> None:
    tls = to_instances(tmp_path)
    stage = Stage(services={"s": tls, "inherits": tls})
    assert stage.certificates.messages == [
        UpstreamFiles(1, {tls.cert: A.cert, tls.key: A.key, tls.ca: AUTHORITY.ca})
    ]
    assert [one.name for one in stage.certificates.services] == ["s"]
    assert [stage.look(), stage.what()] == [[], []]


def test_a_file_of_several_things_is_told_with_all_of_them(tmp_path: Path) -> None:
    file = str(tmp_path / "all.pem")
    put(Path(file), A.key + A.cert)
    stage = Stage(services={"s": UpstreamTls(mode="on", ca=file, cert=file, key=file)})
    assert stage.message.contents == {file: A.cert + A.key}


def test_the_admin_server_is_told_of_in_this_process_alone(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", A)
    tls = AdminTls(cert=str(tmp_path / "a.pem"), key=str(tmp_path / "a.key"))
    certificates = Certificates(Settings(admin=AdminSettings(tls=tls)))
    certificates.begin([one.looking()() for one in certificates.sections], NOW)
    assert certificates.messages == []
    assert certificates.admin is not None
    assert certificates.admin.message is not None
    assert certificates.admin.message.pairs[0].cert == A.cert
    document = status.certificates(certificates, ())["admin"]
    assert (document["generation"], document["certificates"][0]["names"]) == (1, ("a.example",))
    assert [labels for _, labels, _ in certificates.samples()] == [
        {"listener": "", "service": "", "result": "loaded"},
        {"listener": "", "service": "", "certificate": "a.example"},
    ]
    put(tmp_path / "a.pem", b"")
    for _ in range(PATIENCE + 1):
        found = [one.looking()() for one in certificates.sections]
        messages, happened = certificates.step(found, NOW)
        assert messages == []
    [(what, fields)] = happened
    assert (what, fields["server"]) == ("certificate_unusable", "admin")


def test_without_tls_no_file_is_read(tmp_path: Path) -> None:
    none = UpstreamTls(mode="off", ca=str(tmp_path / "none.pem"))
    assert Stage(services={"s": none, "t": UpstreamTls()}).certificates.messages == []


def test_renewed_files_of_services_are_a_new_generation(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    tls, other = to_instances(tmp_path), to_instances(tmp_path / "other")
    stage = Stage(services={"s": tls, "other": other})
    put(tmp_path / "proxy.pem", RENEWED.cert)
    assert stage.look() == []
    put(tmp_path / "proxy.key", RENEWED.key)
    [message] = stage.look()
    assert (message.generation, message.contents[tls.cert]) == (2, RENEWED.cert)
    fields = {"service": "s", "generation": 2, "files": [tls.cert, tls.key]}
    assert stage.told == [("certificates_changed", fields)]


def test_a_file_of_a_service_that_breaks_keeps_its_last_good_value(tmp_path: Path) -> None:
    tls = to_instances(tmp_path)
    stage = Stage(services={"s": tls})
    put(tmp_path / "ca.pem", b"")
    assert [stage.look() for _ in range(PATIENCE + 1)] == [[]] * (PATIENCE + 1)
    fields = {"service": "s", "file": tls.ca, "problem": "is empty"}
    assert stage.told == [("certificate_unusable", fields)]
    assert stage.message.contents[tls.ca] == AUTHORITY.ca
    document = status.certificates(stage.certificates, ())["services"]
    assert document["generation"] == 1
    [files] = document["files"]
    assert files["service"] == "s"
    assert files["problems"] == [{"file": tls.ca, "problem": "is empty"}]
    assert [one["names"] for one in files["certificates"]] == [("a.example",)]
    assert [labels for _, labels, _ in stage.certificates.samples()] == [
        {"listener": "", "service": "s", "result": "loaded"},
        {"listener": "", "service": "s", "result": "failed"},
        {"listener": "", "service": "s", "certificate": "a.example"},
    ]


def test_a_start_without_a_file_of_a_service_is_refused(tmp_path: Path) -> None:
    tls = to_instances(tmp_path)
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(CertificateError) as refused:
        Stage(services={"s": tls})
    why = "cannot be read (No such file or directory)"
    assert str(refused.value) == f"service s: {tls.ca}: {why}"


def test_services_that_verify_nothing_are_named() -> None:
    bad = PoolSettings(tls=UpstreamTls(mode="on", verify=False))
    off = PoolSettings(tls=UpstreamTls(mode="off", verify=False))
    services = {"s": bad, "off": off, "t": PoolSettings()}
    assert list(unverified(Settings(services=services, defaults=bad))) == ["defaults", "s"]


# --------------------------------------------------------------------------------- expiry


def test_an_end_that_is_near_is_told_of_each_day_and_an_end_each_hour(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", AUTHORITY.issue("a.example", not_after=NOW + 20 * DAY))
    stage = Stage(ListenerTls(certificates=(pair_of(tmp_path, "a"),)))
    stage.look(5 * DAY)
    assert stage.what() == []
    stage.look(DAY + 1)
    assert stage.told == [
        (
            "certificate_expires_soon",
            {
                "listener": "https",
                "file": str(tmp_path / "a.pem"),
                "names": ("a.example",),
                "days": 14.0,
            },
        )
    ]
    stage.what()
    for after, told in ((DAY - 1, []), (1, ["certificate_expires_soon"])):
        stage.look(after)
        assert stage.what() == told
    stage.look(13 * DAY)
    assert stage.what() == ["certificate_expired"]
    for after, told in ((HOUR - 1, []), (1, ["certificate_expired"])):
        stage.look(after)
        assert stage.what() == told
    assert stage.names() == ["a.example"]  # It is served all the same.


# ---------------------------------------------------------------------------------- start


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        (b"", A.key, "cert is empty"),
        (A.cert, B.key, "key is not that of the certificate"),
        (A.cert, b"#" * (1024 * 1024 + 1), "key is larger than 1048576 bytes"),
        (None, A.key, "cert cannot be read (No such file or directory)"),
    ],
)
def test_a_start_without_a_pair_is_refused(
    tmp_path: Path, cert: bytes | None, key: bytes, said: str
) -> None:
    put(tmp_path / "a.key", key)
    if cert is not None:
        put(tmp_path / "a.pem", cert)
    files = f"{tmp_path / 'a.pem'} with {tmp_path / 'a.key'}"
    with pytest.raises(CertificateError) as refused:
        Stage(ListenerTls(certificates=(pair_of(tmp_path, "a"),)))
    assert str(refused.value) == f"listener https: {files}: {said}"


def test_a_start_needs_one_good_pair_of_a_directory(tls: ListenerTls, tmp_path: Path) -> None:
    put(tmp_path / "certs/b.key", A.key)
    assert len(Stage(tls).message.pairs) == 1
    alone = ListenerTls(certificates=tls.certificates[1:])
    with pytest.raises(CertificateError, match="key is not that of the certificate"):
        Stage(alone)
    for path in (tmp_path / "certs").iterdir():
        path.unlink()
    with pytest.raises(CertificateError, match="certs: holds no certificate, which"):
        Stage(alone)


def test_a_key_that_openssl_finds_too_short_is_refused(tmp_path: Path) -> None:
    put_pair(tmp_path, "a", AUTHORITY.issue("a.example", kind="rsa1024"))
    with pytest.raises(CertificateError, match="key too small"):
        Stage(ListenerTls(certificates=(pair_of(tmp_path, "a"),)))


def test_more_than_can_be_sent_changes_nothing(tls: ListenerTls, tmp_path: Path) -> None:
    stage = Stage(tls)
    listener = stage.certificates.listeners[0]
    [item] = [item for item in listener.states if item.files[0].endswith("b.pem")]
    facts = listener.states[item].content
    assert isinstance(facts, CertificateFacts)
    listener.states[item].content = replace(facts, cert=bytes(MAX_CERTIFICATES))
    assert [stage.look() for _ in range(3)] == [[], [], []]
    assert stage.what() == ["certificate_unusable"]
    assert stage.message.pairs[1].cert == B.cert


# -------------------------------------------------------------------------------- the loop


def test_the_loop_sends_and_tells(tls: ListenerTls, tmp_path: Path) -> None:
    sent: list[CertificateMessage] = []
    told: list[str] = []

    put_pair(tmp_path / "certs", "b", AUTHORITY.issue("b.example", not_after=LONG_AGO + DAY))

    async def run() -> None:
        certificates = Certificates(Stage(tls).settings)
        await certificates.start()
        put_pair(tmp_path, "a", RENEWED)
        came = asyncio.Event()

        def send(message: CertificateMessage) -> None:
            sent.append(message)
            came.set()

        task = asyncio.create_task(
            certificates.run(send, lambda what, **_: told.append(what), pause=0.0)
        )
        await came.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert [message.generation for message in sent] == [2]
    assert told == ["certificate_expired", "certificates_changed"]


# ------------------------------------------------------------------------- what is shown


def test_metrics_and_documents_show_what_is_in_use(tls: ListenerTls, tmp_path: Path) -> None:
    put_pair(tmp_path / "certs", "b", AUTHORITY.issue(kind="rsa", not_after=NOW + DAY))
    put_pair(tmp_path / "certs", "c", AUTHORITY.issue("a.example", not_after=NOW + 2 * DAY))
    stage = Stage(tls)
    put(tmp_path / "a.key", b"")
    stage.look()
    stage.certificates.refused("https")
    samples = [
        (name.removeprefix("fairlead_"), *labels.values(), value)
        for name, labels, value in stage.certificates.samples()
    ]
    expiry = "certificate_expiry_timestamp_seconds"
    assert samples == [
        ("tls_generation", "https", 1),
        ("certificate_loads_total", "https", "", "loaded", 3),
        ("certificate_loads_total", "https", "", "failed", 1),
        ("certificate_loads_total", "https", "", "refused", 1),
        (expiry, "https", "", "a.example", NOW + 2 * DAY),
        (expiry, "https", "", str(tmp_path / "certs/b.pem"), NOW + DAY),
    ]
    applied = [
        CertificatesApplied("https", 1, contexts=2),
        CertificatesApplied("https", 2, "too bad", contexts=3),
    ]
    workers: Any = [
        SimpleNamespace(index=index, current=SimpleNamespace(certificates={"https": one}))
        for index, one in enumerate(applied)
    ]
    [document] = status.certificates(stage.certificates, workers)["listeners"]
    assert (document["listener"], document["generation"]) == ("https", 1)
    assert (document["workers"], document["contexts"]) == ({"0": 1}, {"0": 2, "1": 3})
    assert document["problems"] == [{"file": str(tmp_path / "a.pem"), "problem": "key is empty"}]
    first = document["certificates"][0]
    assert (first["names"], first["kind"], first["problem"]) == (
        ("a.example",),
        "ec",
        "key is empty",
    )
    assert document["certificates"][1]["not_after"] == "2026-09-22T14:13:20+00:00"


# ----------------------------------------------------------------------------- the command

FILE = """listeners:
  - tls:
      certificates:
        - {cert: a.pem, key: a.key}
        - directory: certs
      client_ca: none.pem
defaults: {tls: {ca: none.pem, cert: a.pem, key: a.key}}
services:
  s: {tls: {ca: bad.pem}}
admin: {tls: {cert: a.pem, key: none.pem}}
routes:
  - {host: a.example, service: a}
  - {host: "{service}.b.example"}
  - {host: "*.wild.example", service: b}
  - {service: c}
"""


def said(path: Path, warnings: bool) -> Sequence[str]:
    found = [one for one in remarks(load(path, {}), NOW) if one.only_warns is warnings]
    lines = located(path, {}, [(one.place, one.message) for one in found])
    return [str(line).replace(str(path.parent), "DIR") for line in lines]


def test_the_check_names_each_problem_in_its_line(tmp_path: Path) -> None:
    path, certs = tmp_path / "proxy.yaml", tmp_path / "certs"
    path.write_text(FILE)
    certs.mkdir()
    put_pair(tmp_path, "a", AUTHORITY.issue("a.example", "*.wild.example", not_after=NOW - 2 * DAY))
    put_pair(certs, "early", AUTHORITY.issue("c.example", not_before=NOW + HOUR))
    put_pair(certs, "good", AUTHORITY.issue(not_after=NOW + 3 * DAY))
    put(certs / "lone.pem", A.cert)
    put(tmp_path / "bad.pem", A.key)
    assert said(path, warnings=False) == [
        'DIR/proxy.yaml:4: listeners.0.tls.certificates.0: "DIR/a.pem" with "DIR/a.key": expired'
        " on 2026-09-19 14:13 UTC; allowed: a valid certificate",
        'DIR/proxy.yaml:5: listeners.0.tls.certificates.1: "DIR/certs/early.pem" with'
        ' "DIR/certs/early.key": is not valid before 2026-09-21 15:13 UTC; allowed:'
        " a valid certificate",
        'DIR/proxy.yaml:5: listeners.0.tls.certificates.1: "DIR/certs/lone.pem" with'
        ' "DIR/certs/lone.key": key cannot be read (No such file or directory); allowed: a PEM file'
        " with a certificate, and one with its key",
        'DIR/proxy.yaml:6: listeners.0.tls.client_ca: "DIR/none.pem": cannot be read (No such file'
        " or directory); allowed: a readable PEM file with certificates",
        'DIR/proxy.yaml:7: defaults.tls.ca: "DIR/none.pem": cannot be read (No such file or'
        " directory); allowed: a readable PEM file with certificates",
        'DIR/proxy.yaml:7: defaults.tls.cert: "DIR/a.pem" with "DIR/a.key": expired on 2026-09-19'
        " 14:13 UTC; allowed: a valid certificate",
        'DIR/proxy.yaml:9: services.s.tls.ca: "DIR/bad.pem": holds no certificate; allowed: a'
        " readable PEM file with certificates",
        'DIR/proxy.yaml:10: admin.tls.cert: "DIR/a.pem" with "DIR/none.pem": key cannot be read (No'
        " such file or directory); allowed: a PEM file with a certificate, and one with its key",
    ]
    good = '"DIR/certs/good.pem" with "DIR/certs/good.key"'
    assert said(path, warnings=True) == [
        f"DIR/proxy.yaml:5: listeners.0.tls.certificates.1: {good}: expires in 3 days",
        f"DIR/proxy.yaml:5: listeners.0.tls.certificates.1: {good}: has no subjectAltName, so it is"
        " for no name",
        'DIR/proxy.yaml:13: routes.1.host: "{service}.b.example" is in no certificate',
    ]
