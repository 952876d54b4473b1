"""`fairlead ca`: a small certificate authority for the mesh, for trials and small fleets."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import click

from proxy.cli_config import json_option, show
from proxy.cli_register import DURATION

_DIRECTORY = click.argument(
    "directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path)
)


@contextmanager
def _refusing() -> Iterator[None]:
    """Words that make no sense, and directories that are none, are the caller's to mend."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror or error}") from None


@click.group()
def ca() -> None:
    """A small certificate authority, whose leaves name services of a trust domain.

    For trials and small fleets: its keys are files of DIR, not encrypted.
    """


@ca.command()
@_DIRECTORY
@click.option("--trust-domain", default="mesh.local", show_default=True, metavar="D")
@json_option
def init(directory: Path, trust_domain: str, as_json: bool) -> None:
    """Make a root, and an intermediate that signs, in an empty directory."""
    from proxy.mesh import authority

    with _refusing():
        authority.create(directory, trust_domain)
    words = f"{directory}: an authority for {trust_domain}; ca.crt is what everybody trusts"
    show({"directory": str(directory), "trust_domain": trust_domain}, [words], as_json)


@ca.command()
@_DIRECTORY
@click.argument("service")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--life", type=DURATION, default=86400.0, show_default="24h")
@json_option
def issue(directory: Path, service: str, out: Path, life: float, as_json: bool) -> None:
    """Write tls.crt, tls.key and ca.crt for SERVICE: the --identity of its side-car."""
    from proxy.mesh.authority import Authority
    from proxy.mesh.renewal import OWN
    from proxy.settings.addresses import parse_name

    if service.lower() == OWN:
        raise click.UsageError(f"{service} is the authority's own name; allowed: any other")
    if life <= 0:
        raise click.UsageError("--life: is over at once; allowed: such as 24h")
    with _refusing():
        Authority(directory).issue(parse_name(service), out, timedelta(seconds=life))
    document = {"out": str(out), "service": service, "life": life}
    show(document, [f"{out}: {service}, for {life / 3600:g} h"], as_json)


@ca.command()
@_DIRECTORY
@json_option
def rotate(directory: Path, as_json: bool) -> None:
    """Take the next of three steps to another root: both are trusted; the new one signs; the old
    one is gone."""
    from proxy.mesh import authority

    with _refusing():
        step = authority.rotate(directory)
    show({"directory": str(directory), "step": step}, [f"{directory}: {step}"], as_json)


@ca.command()
@_DIRECTORY
@click.option("--bind", default="127.0.0.1:15443", show_default=True, metavar="HOST:PORT")
def serve(directory: Path, bind: str) -> None:
    """Renew leaves of side-cars (--renew-from), for whoever shows one that is valid."""
    from proxy import log
    from proxy.mesh.renewal import RenewalServer
    from proxy.settings.addresses import TCP_BIND, split_bind
    from proxy.settings.process import LogSettings
    from proxy.settings.tree import Scalar

    log.set_up(LogSettings())
    with _refusing():
        host, port = split_bind(TCP_BIND(Scalar(bind)))

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await RenewalServer(directory).serve(host, port, stop)

    try:
        asyncio.run(main())
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{bind}: {error.strerror or error}") from None


COMMANDS = (ca,)
