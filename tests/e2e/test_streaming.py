"""Large and slow bodies through the real proxy: whole, in bounded memory, with back-pressure."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.origin import Call, Origin, Script, echo
from tests.e2e.raw_http import Client, request, socket_buffers
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
LARGE = 200 * MIB
GROWTH = 64 * MIB
"""How much a worker may grow while it passes `LARGE` on."""
IN_TRANSIT = socket_buffers() + 8 * MIB
"""What may be under way between two ends of which one does not read: in the kernel, and some
hundred KiB in each of the three processes."""
LONG = IN_TRANSIT + 24 * MIB
"""More than that."""

BLOCK = hashlib.shake_128(b"not a pattern that compresses or repeats").digest(MIB + 1)[: MIB + 1]
"""One byte more than a power of two, so that a block lost or sent twice shifts all boundaries."""


def pieces(size: int) -> Iterator[bytes]:
    """`size` bytes of test data."""
    whole, rest = divmod(size, len(BLOCK))
    for _ in range(whole):
        yield BLOCK
    if rest:
        yield BLOCK[:rest]


def digest(size: int) -> str:
    """SHA-256 of `pieces(size)`."""
    result = hashlib.sha256()
    for piece in pieces(size):
        result.update(piece)
    return result.hexdigest()


@dataclass
class Site:
    proxy: RunningProxy
    origin: Origin
    worker: int
    """Process id of the only worker."""

    @property
    def port(self) -> int:
        return self.proxy.port


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        proxy = RunningProxy(
            {
                "services": {"files": {"instances": [origin.instance]}},
                "routes": [{"path_prefix": "/", "service": "files"}],
            },
            tmp_path_factory.mktemp("proxy"),
        )
        await stack.enter_async_context(proxy)
        [worker] = await proxy.worker_pids()
        yield Site(proxy, origin, worker)


@pytest.fixture
def site(running: Site) -> Site:
    running.origin.calls.clear()
    running.origin.script = echo
    return running


def memory(pid: int, line: str) -> int:
    """`VmRSS` (now) or `VmHWM` (highest ever) of a process, in bytes."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = text.partition(":")
        if name == line:
            return int(value.split()[0]) * 1024
    raise KeyError(line)


@contextmanager
def bounded_growth(site: Site, what: str) -> Iterator[None]:
    """Fails when the worker's memory peaks more than `GROWTH` above what it is now."""
    # Writing 5 resets the peak to the present size, so each transfer is measured on its own.
    Path(f"/proc/{site.worker}/clear_refs").write_text("5")
    before = memory(site.worker, "VmRSS")
    yield
    growth = memory(site.worker, "VmHWM") - before
    print(f"{what}: the worker grew by {growth / MIB:.1f} MiB")  # noqa: T201
    assert growth < GROWTH, f"{what}: {growth / MIB:.1f} MiB"


def download(size: int, chunked: bool) -> Script:
    """Answer with `size` bytes of test data."""

    async def answer(call: Call) -> None:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        await call.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        for piece in pieces(size):
            await call.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await call.write(b"0\r\n\r\n")

    return answer


async def checksum(call: Call) -> None:
    """Answer with the SHA-256 of the body."""
    result = hashlib.sha256()
    async for piece in call.pieces():
        result.update(piece)
    await call.reply(result.hexdigest().encode())


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_200_mb_down_in_bounded_memory(site: Site, framing: str) -> None:
    site.origin.script = download(LARGE, framing == "chunks")
    with bounded_growth(site, f"200 MiB down by {framing}"):
        got, size = await asyncio.to_thread(fetch_digest, site.port)
    assert size == LARGE
    assert got == digest(LARGE)


def fetch_digest(port: int) -> tuple[str, int]:
    """SHA-256 and size of a download, read by a blocking client of the standard library."""
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    result, size = hashlib.sha256(), 0
    while piece := answer.read(256 * 1024):
        result.update(piece)
        size += len(piece)
    connection.close()
    return result.hexdigest(), size


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_200_mb_up_in_bounded_memory(site: Site, framing: str) -> None:
    site.origin.script = checksum
    with bounded_growth(site, f"200 MiB up by {framing}"):
        got = await asyncio.to_thread(send_large, site.port, framing == "chunks")
    assert got == digest(LARGE)


def send_large(port: int, chunked: bool) -> str:
    """The body of the answer to an upload of `LARGE` bytes."""
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    if chunked:
        connection.request("POST", "/", body=pieces(LARGE), encode_chunked=True)
    else:
        headers = {"Content-Length": str(LARGE)}
        connection.request("POST", "/", body=pieces(LARGE), headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return body


async def still(figure: Callable[[], int]) -> int:
    """The value of a figure that has stopped growing for half a second."""
    loop = asyncio.get_running_loop()
    last, since = -1, loop.time()

    def settled() -> bool:
        nonlocal last, since
        if (now := figure()) != last:
            last, since = now, loop.time()
        return last > 0 and loop.time() - since > 0.5

    await eventually(settled, 10, "the stream stands still")
    return last


async def test_a_slow_reader_stops_a_fast_writer(site: Site) -> None:
    site.origin.script = download(LONG, False)
    with bounded_growth(site, "a download nobody reads"):
        async with await Client.connect(site.port, receive=64 * 1024) as client:
            client.stop_reading()
            await client.send(request("GET", "/"))
            await eventually(lambda: site.origin.calls, 5, "the call")
            [call] = site.origin.calls
            sent = await still(lambda: call.sent)
            print(f"sent while nobody read: {sent / MIB:.1f} MiB")  # noqa: T201
            assert sent < IN_TRANSIT
            assert await site.proxy.readyz() == 200
            # Whoever reads again gets the rest.
            client.read_on()
            head = await client.read_head()
            assert head.length() == LONG
            result = hashlib.sha256()
            left = LONG
            while left:
                piece = await asyncio.wait_for(client.reader.read(1 << 18), 10)
                assert piece
                left -= len(piece)
                result.update(piece)
            assert result.hexdigest() == digest(LONG)


async def test_a_slow_origin_stops_a_fast_uploader(site: Site) -> None:
    gate = asyncio.Event()

    async def wait_then_read(call: Call) -> None:
        await gate.wait()
        await checksum(call)

    site.origin.script = wait_then_read
    with bounded_growth(site, "an upload nobody reads"):
        async with await Client.connect(site.port) as client:
            await client.send(request("POST", "/", [("Content-Length", str(LONG))]))
            sent = 0

            async def upload() -> None:
                nonlocal sent
                for piece in pieces(LONG):
                    client.writer.write(piece)
                    await client.writer.drain()
                    sent += len(piece)

            uploading = asyncio.create_task(upload())
            reached = await still(lambda: sent)
            print(f"taken while the origin did not read: {reached / MIB:.1f} MiB")  # noqa: T201
            assert reached < IN_TRANSIT
            assert not uploading.done()
            gate.set()
            await asyncio.wait_for(uploading, 20)
            assert (await client.answer()).body.decode() == digest(LONG)


async def test_a_connection_whose_last_answer_is_still_unread_is_good_for_the_next(
    site: Site,
) -> None:
    """The proxy has all of an answer and the client is behind with reading it: the connection
    it came over goes to other clients all the same."""
    answer = bytes(32 * 1024)

    async def reply(call: Call) -> None:
        await call.reply(answer)

    def called_since(before: int) -> bool:
        return len(site.origin.calls) > before

    site.origin.script = reply
    asked = 0
    async with (
        await Client.connect(site.port, receive=64 * 1024) as slow,
        await Client.connect(site.port) as other,
    ):
        slow.stop_reading()
        while asked < 1000:
            before = len(site.origin.calls)
            await slow.send(request("GET", "/slow"))
            try:
                await eventually(partial(called_since, before), 0.5, "a call", 0.001)
            except AssertionError:
                break  # It is so far behind that the proxy asks no further for it.
            asked += 1
            assert len((await other.ask("GET", "/other")).body) == len(answer)
        assert asked < 1000
        slow.read_on()
        for _ in range(asked + 1):
            assert len((await slow.answer()).body) == len(answer)


async def test_an_answer_before_the_end_of_the_upload_leaves_the_client_usable(site: Site) -> None:
    """An origin may answer when the proxy has taken all of the body and not yet passed on all:
    the client's connection must go on being read."""
    for size in range(32 * 1024, 64 * MIB, 160 * 1024):
        taken = asyncio.Event()

        async def early(call: Call, taken: asyncio.Event = taken) -> None:
            await taken.wait()
            await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            async for _ in call.pieces():
                pass

        site.origin.script = early
        async with await Client.connect(site.port) as client:
            transport = client.writer.transport
            client.writer.write(request("POST", "/", body=bytes(size)))
            try:
                empty = lambda: not transport.get_write_buffer_size()  # noqa: E731, B023
                await eventually(empty, 0.3, "all is taken", every=0.002)
            except AssertionError:
                break  # More than fits on the way: from here on the client is held back.
            finally:
                taken.set()
            if not (await client.answer()).closes:
                site.origin.script = echo
                assert (await client.ask("PUT", "/next", body=b"y")).body == b"y", size
    assert size > MIB


async def test_a_client_that_does_not_read_cannot_pile_up_answers(site: Site) -> None:
    """Each answer of a pipeline is small and complete; together they are not."""
    answer = bytes(8 * 1024)

    async def reply(call: Call) -> None:
        await call.reply(answer)

    site.origin.script = reply
    count = 4000
    with bounded_growth(site, "31 MiB of pipelined answers nobody reads"):
        async with await Client.connect(site.port, receive=64 * 1024) as client:
            client.stop_reading()
            asking = asyncio.create_task(send_all(client, request("GET", "/") * count))
            called = await still(lambda: len(site.origin.calls))
            print(f"answers taken while nobody read: {called}")  # noqa: T201
            assert called * len(answer) < 24 * MIB
            client.read_on()
            for _ in range(count):
                assert len((await client.answer()).body) == len(answer)
            await asking


async def test_a_client_that_never_reads_the_end_is_cut(site: Site, tmp_path: Path) -> None:
    """Its connection is over, and the last bytes fit into the proxy's buffer: they must not
    stay there for ever."""
    site.origin.script = download(64 * MIB, False)
    listener = f"127.0.0.1:{free_port()}"
    proxy = RunningProxy(
        {
            "listeners": [{"name": "web", "bind": listener, "timeouts": {"idle": "500ms"}}],
            "services": {"files": {"instances": [site.origin.instance]}},
            "routes": [{"path_prefix": "/", "service": "files"}],
        },
        tmp_path,
    )

    async def connections() -> int:
        _, text = await proxy.get("/metrics")
        [line] = [line for line in text.splitlines() if line.startswith("fairlead_client_conn")]
        return int(float(line.split()[1]))

    async with proxy:
        port = int(listener.rpartition(":")[2])
        for size in (64 * MIB, 0):
            # The second: small answers, more than the client's side holds, the last one closing.
            async with await Client.connect(port, receive=64 * 1024) as client:
                client.stop_reading()
                if size:
                    await client.send(request("GET", "/"))
                    await eventually(lambda: site.origin.calls, 5, "the call")
                else:
                    site.origin.script = echo_sized
                    for _ in range(2000):
                        client.writer.write(request("GET", "/"))
                    client.writer.write(request("GET", "/", [("Connection", "close")]))
                await eventually(connections, 5, "the connection")

                async def gone() -> bool:
                    return await connections() == 0

                await eventually(gone, 8, "the connection's end")
            site.origin.calls.clear()


async def echo_sized(call: Call) -> None:
    await call.reply(bytes(16 * 1024))


async def send_all(client: Client, data: bytes) -> None:
    client.writer.write(data)
    await client.writer.drain()
