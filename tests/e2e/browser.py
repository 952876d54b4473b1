"""A headless Chromium, driven over its DevTools protocol: pages as people see them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from tests.e2e.running import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

STARTS = 30.0
"""Seconds for the browser to start."""


class Browser:
    """Owns one browser process with one page."""

    def __init__(self, directory: Path) -> None:
        """`directory` takes its profile."""
        self._directory = directory
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._session = ""
        self.errors: list[str] = []
        """Errors on the console, and scripts that raised."""
        self.requested: set[str] = set()
        """URLs that the page asked for."""

    async def __aenter__(self) -> Self:
        assert CHROMIUM is not None
        self._process = await asyncio.create_subprocess_exec(
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--window-size=1400,900",
            "--remote-debugging-port=0", f"--user-data-dir={self._directory}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(STARTS):
                self._socket: ClientConnection = await connect(await self._url(), max_size=None)
        except BaseException:
            self._process.kill()
            await self._process.wait()
            raise
        self._reader = asyncio.create_task(self._read())
        target = await self.call("Target.createTarget", url="about:blank")
        found = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()
        self._process.kill()
        await self._process.communicate()

    async def _url(self) -> str:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            if found := re.search(rb"DevTools listening on (ws://\S+)", line):
                return found[1].decode()
        raise AssertionError("the browser ended before it listened")

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._waiting.pop(message["id"]).set_result(message)
                continue
            given = message.get("params", {})
            match message["method"]:
                case "Runtime.exceptionThrown":
                    self.errors.append(str(given["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if given["type"] == "error":
                    self.errors.append(str(given["args"]))
                case "Log.entryAdded" if given["entry"]["level"] == "error":
                    self.errors.append(f"{given['entry']['text']} {given['entry'].get('url')}")
                case "Network.requestWillBeSent":
                    self.requested.add(given["request"]["url"])

    async def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send(json.dumps(message))
        async with asyncio.timeout(STARTS):
            answer = await future
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def open(self, url: str) -> None:
        """Load a page."""
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, (script, found)
        return found["result"].get("value")

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key: `Tab`, `Enter` or a blank."""
        code, number = {"Tab": ("Tab", 9), "Enter": ("Enter", 13), " ": ("Space", 32)}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        about = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            more = {**about, **typed, "modifiers": 8 * shift}
            await self.call("Input.dispatchKeyEvent", type=kind, **more)

    async def until(self, script: str, what: str, limit: float = 15.0) -> None:
        """Wait until an expression is true in the page."""

        async def holds() -> bool:
            return bool(await self.run(f"Boolean({script})"))

        await eventually(holds, limit, what)

    async def emulate(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self) -> bytes:
        """What is to be seen on a screen that is wide enough for the widest table, as PNG."""
        size = {"width": 1600, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        found = await self.call("Page.captureScreenshot", format="png")
        await self.call("Emulation.clearDeviceMetricsOverride")
        return base64.b64decode(found["data"])
