"""Spans as OpenTelemetry's own collector understands them. `.ci/go` builds it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.origin import origins
from tests.e2e.running import RunningProxy
from tests.e2e.test_tracing import HEADERS, SPAN, TRACE
from tests.support.processes import eventually, free_port

COLLECTOR = Path(__file__).parents[2] / "build/go/collector"
pytestmark = pytest.mark.skipif(
    not COLLECTOR.exists(), reason="OpenTelemetry's collector is not built (.ci/go)"
)
SETTINGS = """
receivers: {otlp: {protocols: {http: {endpoint: "127.0.0.1:%d"}}}}
exporters: {debug: {verbosity: detailed}}
service:
  telemetry: {metrics: {level: none}, logs: {encoding: json}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
"""


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
async def test_spans_are_what_the_collector_takes_them_for(tmp_path: Path, encoding: str) -> None:
    port, log = free_port(), tmp_path / "collector.log"
    (tmp_path / "collector.yaml").write_text(SETTINGS % port)
    with log.open("wb") as output:
        collector = await asyncio.create_subprocess_exec(
            COLLECTOR, str(tmp_path / "collector.yaml"), stdout=output, stderr=output
        )
    try:
        await eventually(lambda: "Everything is ready" in log.read_text(), 60, log.read_text)
        tracing = {"endpoint": f"http://127.0.0.1:{port}/v1/traces", "encoding": encoding}
        async with origins("one") as (one,):
            config = {
                "services": {"users": {"instances": [one.instance]}},
                "routes": [{"path_prefix": "/{service}"}],
                "tracing": {**tracing, "sample": 0.0, "service_name": "edge"},
            }
            async with RunningProxy(config, tmp_path) as proxy, aiohttp.ClientSession() as client:
                async with client.get(proxy.url + "/users/7", headers=HEADERS) as answer:
                    assert answer.status == 200
                await eventually(lambda: "Span #1" in log.read_text(), 30, log.read_text)
    finally:
        if collector.returncode is None:
            collector.terminate()
        await collector.wait()
    text = log.read_text().replace("\\t", " ").replace("\\n", "\n")
    for words in (
        "service.name: Str(edge)", f"Trace ID       : {TRACE}", f"Parent ID      : {SPAN}",
        "Name           : GET /{service}", "Kind           : Server", "Kind           : Client",
        "http.response.status_code: Int(200)", "url.path: Str(/users/7)",
        "url.scheme: Str(http)", "http.route: Str(/{service})", "fairlead.service: Str(users)",
    ):  # fmt: skip
        assert words in text, (words, text)
