"""The gateway's bytes: frames, replies, and errors in all the shapes that are about."""

from __future__ import annotations

import base64
import json

import pytest

from proxy.registry.etcd.wire import (
    BadCredentials,
    Compacted,
    EtcdError,
    FrameReader,
    GatewayOff,
    LeaseNotFound,
    TokenRefused,
    Unreachable,
    decode_kept,
    decode_lease,
    decode_range,
    decode_txn,
    error_from,
    error_named,
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def line(**result: object) -> bytes:
    return json.dumps({"result": result}).encode() + b"\n"


def test_a_frame_with_events() -> None:
    events = [
        {"kv": {"key": b64(b"/s/a"), "mod_revision": "9007199254740993", "value": b64(b"\x00")}},
        {"type": "DELETE", "kv": {"key": b64(b"/s/b"), "mod_revision": "7"}},
    ]
    (frame,) = FrameReader().feed(line(header={"revision": "9", "new": 1}, events=events))
    put, delete = frame.events
    assert (put.kv.key, put.kv.value, put.deleted) == (b"/s/a", b"\x00", False)
    assert put.kv.mod_revision == 9007199254740993  # beyond what a float holds
    assert (delete.kv.key, delete.deleted) == (b"/s/b", True)
    assert frame.header.revision == 9
    assert not frame.bookmark


def test_a_frame_without_events_is_a_bookmark_unless_it_says_otherwise() -> None:
    reader = FrameReader()
    created, bookmark, canceled = reader.feed(
        line(header={"revision": "3"}, created=True)
        + line(header={"revision": "4"})
        + line(header={"revision": "5"}, canceled=True, compact_revision="2")
    )
    assert created.created
    assert not created.bookmark
    assert bookmark.bookmark
    assert canceled.compact_revision == 2
    assert not canceled.bookmark


def test_an_error_object_comes_after_the_frames_before_it() -> None:
    error = {"grpc_code": 14, "http_code": 503, "message": "closing", "http_status": "x"}
    data = line(created=True) + json.dumps({"error": error}).encode()
    reader = FrameReader()
    assert [frame.created for frame in reader.feed(data)] == [True]
    with pytest.raises(Unreachable, match="closing"):
        list(reader.end())


def test_the_end_of_a_stream_is_an_error() -> None:
    reader = FrameReader()
    with pytest.raises(Unreachable):
        list(reader.end())


def test_a_stream_cut_in_a_frame() -> None:
    reader = FrameReader()
    assert list(reader.feed(line(created=True)[:-5])) == []
    with pytest.raises(EtcdError) as cut:
        list(reader.end())
    assert type(cut.value) is EtcdError


@pytest.mark.parametrize("data", [b"<html>\n", b"[]\n", b"{}\n", b'{"result": 1}\n', b"[" * 9999])
def test_a_line_that_is_no_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(EtcdError):
        list(FrameReader().feed(data + b"\n"))


def test_a_frame_has_a_limit() -> None:
    reader = FrameReader(limit=1000)
    for _ in range(10):
        assert list(reader.feed(b"x" * 100)) == []
    with pytest.raises(EtcdError, match=r"\b1000\b"):
        list(reader.feed(b"x"))


def test_a_range_reply() -> None:
    reply = decode_range(
        b'{"header": {"cluster_id": "14841639068965178418", "revision": "5"}, "more": true,'
        b' "kvs": [{"key": "YQ==", "mod_revision": "5", "version": "1"}], "count": "12"}'
    )
    assert reply.header.cluster_id == 14841639068965178418
    assert (reply.count, reply.more, reply.kvs[0].key, reply.kvs[0].value) == (12, True, b"a", b"")


def test_an_empty_range_reply() -> None:
    reply = decode_range(b'{"header": {"revision": "1"}}')
    assert (reply.kvs, reply.count, reply.more) == ((), 0, False)


def test_a_lease() -> None:
    reply = decode_lease(
        b'{"header": {"revision": "5"}, "ID": "2364849415787870470", "TTL": "9",'
        b' "grantedTTL": "10", "keys": ["YQ==", "Yg=="]}'
    )
    assert (reply.id, reply.ttl, reply.keys) == (2364849415787870470, 9, (b"a", b"b"))


def test_a_keep_alive() -> None:
    assert decode_kept(line(ID="7", TTL="10")).ttl == 10
    assert decode_kept(line(ID="7")).ttl == 0  # how etcd says that the lease is lost
    with pytest.raises(Unreachable):
        decode_kept(b"\n")
    with pytest.raises(Unreachable, match="gone"):
        decode_kept(b'{"error": {"code": 14, "message": "gone"}}\n')
    with pytest.raises(EtcdError) as empty:
        decode_kept(b"{}\n")
    assert type(empty.value) is EtcdError


def test_a_transaction() -> None:
    done = decode_txn(
        b'{"header": {"revision": "7"}, "succeeded": true,'
        b' "responses": [{"response_put": {"header": {"revision": "7"}}}]}'
    )
    assert (done.succeeded, done.header.revision, done.ranges[0].kvs) == (True, 7, ())
    failed = decode_txn(
        b'{"responses": [{"response_range": {"kvs": [{"key": "YQ==", "mod_revision": "2",'
        b' "value": "YQ==", "lease": "23"}], "count": "1"}}, {"response_range": {}}]}'
    )
    first, second = failed.ranges
    assert not failed.succeeded
    assert (first.kvs[0].mod_revision, first.kvs[0].lease, second.kvs) == (2, 23, ())


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        # 3.4 and 3.5, unary
        (401, b'{"error": "etcdserver: invalid auth token", "code": 16}', TokenRefused, "invalid"),
        (403, b'{"error": "etcdserver: permission denied", "code": 7}', TokenRefused, "permission"),
        (400, b'{"error": "etcdserver: user name is empty", "code": 3}', TokenRefused, "empty"),
        (503, b'{"error": "etcdserver: no leader", "code": 14}', Unreachable, "no leader"),
        (400, b'{"error": "etcdserver: mvcc: required revision has been compacted", "code": 11}',
         Compacted, "compacted"),
        (404, b'{"error": "etcdserver: requested lease not found", "code": 5}',
         LeaseNotFound, "lease"),
        (400, b'{"error": "etcdserver: authentication failed, invalid user ID", "code": 3}',
         BadCredentials, "failed"),
        # 3.6, unary
        (401, b'{"code": 16, "message": "etcdserver: invalid auth token", "details": []}',
         TokenRefused, "invalid"),
        # inside a stream: 3.4 and 3.5, then 3.6
        (0, b'{"error": {"grpc_code": 7, "http_code": 403, "message": "denied"}}',
         TokenRefused, "denied"),
        (0, b'{"error": {"code": 14, "message": "gone"}}', Unreachable, "gone"),
        (0, b'"bare text"', EtcdError, "bare text"),
        # whoever stands in front
        (404, b"404 page not found\n", GatewayOff, "enable-grpc-gateway"),
        (503, b"<html>upstream\xff</html>", Unreachable, "HTTP 503: <html>"),
        (302, b"", EtcdError, "HTTP 302"),
        (500, b"[1, 2]", EtcdError, "HTTP 500: [1, 2]"),
        (500, b"[" * 5000, EtcdError, "HTTP 500"),
    ],
)  # fmt: skip
def test_errors(status: int, body: bytes, kind: type[EtcdError], words: str) -> None:
    error = error_from(status, body)
    assert type(error) is kind
    assert words in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", TokenRefused),
        ("etcdserver: invalid auth token", TokenRefused),
        ("etcdserver: revision of auth store is old", TokenRefused),
        ("auth: revision in header is old", TokenRefused),
        ("rpc error: code = Unavailable desc = etcdserver: no leader", Unreachable),
        ("etcdserver: mvcc: required revision has been compacted", Compacted),
        ("something new", EtcdError),
    ],
)
def test_reasons_of_a_cancellation(reason: str, kind: type[EtcdError]) -> None:
    assert type(error_named(reason)) is kind
