"""`fairlead config`, the configuration that a fleet shares: from the command line to etcd."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxy.cli_config import (
    complain,
    file_option,
    json_option,
    load_or_complain,
    named,
    show,
)
from proxy.listings import printable

if TYPE_CHECKING:
    from proxy.fleet.store import Store
    from proxy.fleet.versions import Found, Writes

T = TypeVar("T")

config_option = file_option(
    "A proxy's own file, whose config and registry sections say where the key is."
)


@click.group()
def config() -> None:
    """Push and look at the configuration that the proxies of a fleet share."""


def _share(_ctx: Any, _param: Any, text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not (text.endswith("%") and 0 < share <= 1):
        raise click.BadParameter(f"{text!r} is not a share; allowed: such as 10%, up to 100%")
    return share


@config.command()
@click.argument("pushed", metavar="FILE")
@click.option(
    "--to", "ids", callback=named, metavar="ID,…", help="Only for the proxies of these ids."
)
@click.option("--share", callback=_share, metavar="N%", help="Only for this share of all proxies.")
@config_option
@json_option
def push(pushed: str, ids: tuple[str, ...], share: float, file: str, as_json: bool) -> None:
    """Check FILE and write it to the key, for all proxies or for a canary."""
    from proxy.fleet.config import Canary

    if ids and share:
        raise click.UsageError("--to stands beside --share; allowed: one of the two")
    text = _checked(file, pushed)

    def change(found: Found, by: str, at: str) -> tuple[Writes, str]:
        if ids or share:
            return found.try_out(Canary(text, ids, share, by, at)), "pushed as a canary"
        return found.push(text, by, at), "pushed"

    _change(file, change, as_json)


@config.command()
@config_option
@json_option
def promote(file: str, as_json: bool) -> None:
    """Give the canary to all proxies."""
    _change(file, lambda found, by, at: (found.promote(by, at), "promoted"), as_json)


@config.command()
@click.argument("version", type=int, required=False)
@config_option
@json_option
def rollback(version: int | None, file: str, as_json: bool) -> None:
    """Withdraw the canary; without one go back to the version before, or to VERSION."""
    _change(file, lambda found, by, at: found.back(version, by, at), as_json)


@config.command()
@config_option
@json_option
def pull(file: str, as_json: bool) -> None:
    """Print what the key holds."""
    text = _ask(file, _find).text
    if as_json:
        show({"text": text}, (), True)
    else:
        click.echo(text or "", nl=False)


@config.command()
@click.argument("other", metavar="FILE")
@config_option
@json_option
def diff(other: str, file: str, as_json: bool) -> None:
    """Print the differences between the key and FILE; the exit code is 1 if there are any."""
    import difflib

    from proxy.settings.complaints import ConfigError
    from proxy.settings.load import read_text

    try:
        theirs = read_text(Path(other)).splitlines()
    except ConfigError as error:
        complain(error)
    ours = (_ask(file, _find).text or "").splitlines()
    found = list(difflib.unified_diff(ours, theirs, "the key", other, lineterm=""))
    show({"differs": bool(found), "lines": found}, map(printable, found), as_json)
    raise SystemExit(bool(found))


@config.command()
@config_option
@json_option
def history(file: str, as_json: bool) -> None:
    """List the last versions, the newest first, and the canary."""
    from proxy.fleet.config import digest

    found = _ask(file, _find)
    canary = found.canary
    pushed = bool(found.history) and found.history[-1].text == found.text
    in_force = max((one.number for one in found.history if one.text == found.text), default=0)
    document = {
        "canary": canary
        and {
            "digest": digest(canary.text), "at": canary.at, "by": canary.by,
            "to": canary.to, "share": canary.share,
        },
        "history": [
            {
                "number": one.number, "digest": digest(one.text), "at": one.at, "by": one.by,
                "in_force": one.number == in_force,
            }
            for one in reversed(found.history)
        ],
        "in_force": None if found.text is None else digest(found.text),
    }  # fmt: skip
    lines = []
    if canary is not None:
        whom = ", ".join(canary.to) or f"{canary.share:.0%}"
        lines.append(f"canary  {digest(canary.text)}  {canary.at}  {canary.by}  {whom}")
    for one in reversed(found.history):
        now = "  in force" if one.number == in_force else ""
        lines.append(f"{one.number:>6}  {digest(one.text)}  {one.at}  {one.by}{now}")
    if found.text is not None and not pushed:
        lines.append(f"the key holds {digest(found.text)}, which was not pushed")
    show(document, map(printable, lines), as_json)


COMMANDS = (config,)


def _checked(file: str, pushed: str) -> str:
    """The text of a file, if all is well with it beside the local one; else the exit code is 2."""
    from proxy.settings.complaints import ConfigError
    from proxy.settings.fleet import SharedText
    from proxy.settings.load import parse, read_text

    try:
        text = read_text(Path(pushed))
        parse(read_text(Path(file)), file, os.environ, SharedText(text, pushed))
    except ConfigError as error:
        complain(error)
    return text


async def _find(store: Store, key: str) -> Found:
    from proxy.fleet.versions import find

    return await find(store, key)


def _change(
    file: str, decide: Callable[[Found, str, str], tuple[Writes, str]], as_json: bool
) -> None:
    from proxy.fleet import versions

    by = f"{getpass.getuser()}@{socket.gethostname()}"
    at = datetime.now(UTC).isoformat(timespec="seconds")

    async def work(store: Store, key: str) -> tuple[str, int]:
        writes, words = decide(await versions.find(store, key), by, at)
        return words, await versions.write(store, writes)

    try:
        words, revision = _ask(file, work)
    except versions.Refused as error:
        raise click.ClickException(str(error)) from None
    show({"done": words, "revision": revision}, [f"{words}: revision {revision}"], as_json)


def _ask(file: str, work: Callable[[Store, str], Awaitable[T]]) -> T:
    """Result of work with the etcd and the key that a file names."""
    from proxy.fleet.store import Store
    from proxy.registry.base import RegistryError
    from proxy.registry.etcd.options import Options
    from proxy.settings.fleet import etcd_of

    settings = load_or_complain(file)
    if settings.config is None:
        raise click.UsageError(f"{file} has no section config, which says where the key is")
    key = settings.config.key
    registry = etcd_of(settings.registry, settings.config.registry)
    assert registry is not None, "is checked"
    options = registry.options
    assert isinstance(options, Options)

    async def main() -> T:
        store = Store(options)
        try:
            return await work(store, key)
        finally:
            await store.close()

    try:
        return asyncio.run(main())
    except RegistryError as error:
        raise click.ClickException(f"etcd: {error}") from None
