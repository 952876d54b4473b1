"""Spans on their way to a collector, and a collector that is away."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


def config(port: int, collector: int, log: Path) -> dict[str, Any]:
    instance = {"id": "one", "address": "127.0.0.1", "port": port}
    return {
        "services": {"users": {"instances": [instance]}},
        "routes": [{"path_prefix": "/{service}"}],
        "access_log": {"path": str(log)},
        "tracing": {
            "endpoint": f"http://127.0.0.1:{collector}/v1/traces",
            "sample": 0.0,
            "service_name": "edge",
            "headers": {"X-Key": "k3y"},
        },
    }


async def serve(handler: Any, port: int) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


def read_json(sent: bytes) -> ExportTraceServiceRequest:
    """What OpenTelemetry's own package reads; ids are base64 to it, where OTLP has digits."""
    document = json.loads(sent)
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for key in ("traceId", "spanId", "parentSpanId"):
            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return json_format.ParseDict(document, ExportTraceServiceRequest())


READERS = {
    "application/json": read_json,
    "application/x-protobuf": ExportTraceServiceRequest.FromString,
}


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
async def test_spans_reach_the_collector_and_their_trace_the_log(
    tmp_path: Path, encoding: str
) -> None:
    taken: list[ExportTraceServiceRequest] = []
    told: list[str] = []

    async def collect(request: web.Request) -> web.Response:
        assert request.headers["X-Key"] == "k3y"
        kind = request.headers["Content-Type"]
        assert kind.endswith(encoding)
        taken.append(READERS[kind](await request.read()))
        return web.json_response({})

    async def answer(request: web.Request) -> web.Response:
        told.append(request.headers["traceparent"])
        return web.Response(text="hi")

    collector, instance, log = free_port(), free_port(), tmp_path / "access.log"
    runners = [await serve(collect, collector), await serve(answer, instance)]
    try:
        settings = config(instance, collector, log)
        settings["tracing"]["encoding"] = encoding
        async with (
            RunningProxy(settings, tmp_path) as proxy,
            aiohttp.ClientSession() as client,
        ):
            async with client.get(proxy.url + "/users/7", headers=HEADERS) as got:
                assert got.status == 200

            async def has_come() -> bool:
                return bool(taken)

            await eventually(has_come, 20, "spans")

            async def counted() -> bool:
                _, page = await proxy.get("/metrics")
                return 'fairlead_spans_total{result="exported"} 2' in page

            await eventually(counted, 20, "the count of spans")
        (resource,) = taken[0].resource_spans
        (scope,) = resource.scope_spans
        server, attempt = scope.spans
        assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, SPAN)
        assert told == [f"00-{TRACE}-{attempt.span_id.hex()}-01"]
        assert attempt.parent_span_id == server.span_id
        assert json.loads(log.read_text())["trace_id"] == TRACE
    finally:
        for runner in runners:
            await runner.cleanup()


async def test_a_bucket_of_a_live_page_has_its_traced_request_as_exemplar(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="hi")

    instance = free_port()
    runner = await serve(answer, instance)
    try:
        settings = config(instance, free_port(), tmp_path / "access.log")  # Nobody collects.
        async with RunningProxy(settings, tmp_path) as proxy, aiohttp.ClientSession() as client:
            for headers in (HEADERS, {}):  # The other one is not traced.
                async with client.get(proxy.url + "/users/7", headers=headers) as got:
                    assert got.status == 200
            buckets: list[Sample] = []

            async def shown() -> bool:
                accept = {"Accept": "application/openmetrics-text"}
                _, page = await proxy.get("/metrics", accept)
                families = {one.name: one for one in text_string_to_metric_families(page)}
                samples = families["fairlead_request_duration_seconds"].samples
                buckets[:] = [
                    one
                    for one in samples
                    if one.name.endswith("_bucket") and one.labels["service"] == "users"
                ]
                return any(one.exemplar for one in buckets)

            await eventually(shown, 20, "an exemplar")
            (with_one,) = [one for one in buckets if one.exemplar]
            exemplar = with_one.exemplar
            assert exemplar is not None
            assert exemplar.labels == {"trace_id": TRACE}
            bounds = [float(one.labels["le"]) for one in buckets]
            place = bounds.index(float(with_one.labels["le"]))
            assert bounds[place] >= exemplar.value > (bounds[place - 1] if place else 0.0)
            assert with_one.value >= 1
    finally:
        await runner.cleanup()


async def test_requests_do_not_mind_a_collector_that_is_away(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="hi")

    instance = free_port()
    runner = await serve(answer, instance)
    try:
        settings = config(instance, free_port(), tmp_path / "access.log")
        async with RunningProxy(settings, tmp_path) as proxy, aiohttp.ClientSession() as client:
            for _ in range(20):
                async with client.get(proxy.url + "/users/7", headers=HEADERS) as got:
                    assert got.status == 200

            async def dropped() -> bool:
                _, page = await proxy.get("/metrics")
                return 'fairlead_spans_total{result="dropped"} 40' in page

            await eventually(dropped, 20, "spans that were dropped")
            await proxy.logs("spans_not_exported")
    finally:
        await runner.cleanup()
