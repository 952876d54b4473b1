"""Commands that ask a running proxy, through its admin server."""

from __future__ import annotations

import getpass
import json
import os
import socket
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxy import listings
from proxy.cli_config import DEFAULT_FILE, json_option, load_or_complain, show

if TYPE_CHECKING:
    from proxy.admin_client import AdminClient

COMMANDS: list[click.Command] = []

LONG = 3600.0
"""Seconds: the proxy has a limit for each step, and says when one took too long."""

everywhere_option = click.option(
    "--everywhere", is_flag=True, help="At all proxies of the fleet, until it is taken back."
)


def command(function: Any) -> click.Command:
    """A command of this module."""
    made = click.command()(function)
    COMMANDS.append(made)
    return made


def admin_options(command: Any) -> Any:
    """`--admin`, `--admin-ca`, `--token`, `-c`: where the admin server is, whom to believe that it
    is, and how to be let in. The command gets a `client` for them."""

    @wraps(command)
    def asking(
        *, admin: str | None, admin_ca: str | None, token: str | None, file: str, **others: Any
    ) -> None:
        client = _client(admin, admin_ca, token, file)
        from proxy.admin_client import AdminError

        try:
            command(client=client, **others)
        except AdminError as error:
            raise click.ClickException(str(error)) from None
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            # Another product may have an answer under the same name.
            raise click.ClickException(
                f"{client.url} is no admin server: its answer is none of this command's ({error!r})"
            ) from error

    for option in (
        click.option(
            "-c",
            "--config",
            "file",
            default=DEFAULT_FILE,
            metavar="FILE",
            help="Take address, certificate and token from this file's admin section  [default:"
            " proxy.yaml, if there is one].",
        ),
        click.option("--token", envvar="FAIRLEAD_ADMIN_TOKEN", help="Bearer token."),
        click.option(
            "--admin-ca",
            metavar="PEM",
            help="Authority of the admin server's certificate  [default: the system's].",
        ),
        click.option("--admin", metavar="URL", help="Admin server of the proxy."),
    ):
        asking = option(asking)
    return asking


def _client(admin: str | None, ca: str | None, token: str | None, file: str) -> AdminClient:
    from proxy import admin_client as asked

    try:
        context = None if ca is None else asked.believing(ca)
        if admin is not None:
            # The file's token is for the file's address: it goes nowhere else.
            return asked.AdminClient(admin, token or "", context)
        if file == DEFAULT_FILE and not Path(file).exists():
            return asked.AdminClient(asked.DEFAULT_URL, token or "")
        settings = load_or_complain(file).admin
        if (tls := settings.tls) is not None and context is None:
            shows = tls.client_ca is not None
            context = asked.believing_only(tls.cert, tls.key, shows=shows)
        url = asked.url_of(settings.bind, secure=tls is not None)
        return asked.AdminClient(url, token or settings.token or settings.read_token, context)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def _segment(name: str) -> str:
    from proxy.admin_client import segment

    return segment(name)


@command
@admin_options
@json_option
def services(client: AdminClient, as_json: bool) -> None:
    """List the services the running proxy knows."""
    document = client.get("/api/v1/services", "services")
    show(document, listings.services(document), as_json)


@command
@click.argument("service")
@admin_options
@json_option
def instances(service: str, client: AdminClient, as_json: bool) -> None:
    """List the instances of SERVICE with their status."""

    path = f"/api/v1/services/{_segment(service)}"
    document = client.get(path, "instances")
    show(document, listings.instances(document), as_json)


@command
@admin_options
@json_option
def registry(client: AdminClient, as_json: bool) -> None:
    """Tell what the running proxy knows of its registry, and which records it cannot read."""
    document = client.get("/api/v1/registry", "provider")
    show(document, listings.registry(document), as_json)


@command
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@admin_options
@json_option
def events(follow: bool, client: AdminClient, as_json: bool) -> None:
    """List what has happened to services, instances, workers and certificates, one line each."""
    try:
        for kind, data in client.events("/api/v1/events?kept=" + ("on" if follow else "only")):
            fields = json.loads(data)
            line = json.dumps({"kind": kind, **fields}) if as_json else listings.event(kind, fields)
            click.echo(line)
    except KeyboardInterrupt:
        return
    if follow:
        raise click.ClickException("the proxy has ended the stream of events")


@command
@click.option("--once", is_flag=True, help="Print the services once, and end.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, metavar="SECONDS"
)
@admin_options
@json_option
@click.option(
    "--fleet",
    "of_fleet",
    is_flag=True,
    help="Services as all proxies of the fleet see them: rates added up, of all else the worst.",
)
def top(once: bool, interval: float, client: AdminClient, as_json: bool, of_fleet: bool) -> None:
    """Show services and instances live: rate, errors, latency, in flight, state."""
    from proxy.admin_client import AdminError

    every = "/api/v1/fleet/services" if of_fleet else "/api/v1/services"

    def ask(service: str | None) -> Any:
        path = every if service is None else f"/api/v1/services/{_segment(service)}"
        try:
            return client.get(path, "services" if service is None else "instances")
        except AdminError as error:
            raise ValueError(str(error)) from None

    if once or as_json:
        document = client.get(every, "services")
        show(document, listings.services(document), as_json)
        return
    from proxy import cli_top  # Where Python has no curses, only this does not work.

    client.get(every, "services")  # If nobody answers, it is said in a line of its own.
    cli_top.run(ask, interval)


@command
@click.argument("url")
@click.option("--method", default="GET", show_default=True, metavar="M", help="Request method.")
@click.option("--header", "headers", multiple=True, metavar="K:V", help="Request header field.")
@click.option(
    "--caller", default="", metavar="S", help="Service that the client's certificate names."
)
@admin_options
@json_option
def explain(
    url: str,
    method: str,
    headers: tuple[str, ...],
    caller: str,
    client: AdminClient,
    as_json: bool,
) -> None:
    """Tell what would become of a request for URL: route, service, balancer, instances."""
    query = [("method", method), ("url", url), *(("header", header) for header in headers)]
    query += [("caller", caller)] if caller else []
    document = client.get("/api/v1/explain", "request", query)
    show(document, map(listings.printable, listings.explained(document)), as_json)


@command
@click.argument("instance", metavar="SERVICE/ID")
@everywhere_option
@admin_options
@json_option
def drain(instance: str, everywhere: bool, client: AdminClient, as_json: bool) -> None:
    """Send no new requests to an instance; those in flight finish."""
    _set_drain("drain", instance, everywhere, client, as_json)


@command
@click.argument("instance", metavar="SERVICE/ID")
@everywhere_option
@admin_options
@json_option
def undrain(instance: str, everywhere: bool, client: AdminClient, as_json: bool) -> None:
    """Send requests to an instance again."""
    _set_drain("undrain", instance, everywhere, client, as_json)


@command
@click.argument("instance", metavar="SERVICE/ID")
@click.argument("weight", type=click.IntRange(0, 65_535), metavar="N")
@admin_options
@json_option
def weight(instance: str, weight: int, client: AdminClient, as_json: bool) -> None:
    """Give an instance another weight, until it registers anew."""
    document = client.post(f"{_path_of(instance)}/weight?weight={weight}", "weight")
    show(document, [f"{instance}: weight {weight}"], as_json)


def _set_drain(
    verb: str, instance: str, everywhere: bool, client: AdminClient, as_json: bool
) -> None:
    query = f"?everywhere=1&by={_segment(_whoever())}" if everywhere else ""
    document = client.post(f"{_path_of(instance)}/{verb}{query}", "drained")
    show(document, [f"{instance}: {verb}ed{' everywhere' * everywhere}"], as_json)


def _path_of(instance: str) -> str:
    service, slash, id_ = instance.partition("/")
    if not (service and slash and id_):
        raise click.UsageError(f"{instance!r} is not of the form SERVICE/ID")
    return f"/api/v1/services/{_segment(service)}/instances/{_segment(id_)}"


def _whoever() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


@command
@admin_options
@json_option
def fleet(client: AdminClient, as_json: bool) -> None:
    """List the proxies of the fleet, and what all of them drain."""
    document = client.get("/api/v1/fleet", "proxies")
    show(document, map(listings.printable, listings.fleet(document)), as_json)


@command
@click.option("--dry-run", is_flag=True, help="Only print what would change.")
@admin_options
@json_option
def reload(dry_run: bool, client: AdminClient, as_json: bool) -> None:
    """Let the running proxy read its configuration again; print what changed."""
    document = client.post("/api/v1/reload" + "?dry_run=1" * dry_run, "complaints", LONG)
    show(document, listings.reloaded(document, dry_run), as_json)
    if document["complaints"]:
        raise SystemExit(2 if document["result"] == "refused" else 1)


@command
@click.option("--env-file", metavar="FILE", help="Further variables of its environment.")
@admin_options
@json_option
def upgrade(env_file: str | None, client: AdminClient, as_json: bool) -> None:
    """Let the running proxy be replaced by what is installed now, on the same sockets."""
    query = "" if env_file is None else "?env_file=" + _segment(os.path.abspath(env_file))
    document = client.post("/api/v1/upgrade" + query, "upgraded", LONG)
    show(document, ["upgraded"], as_json)


@command
@admin_options
@json_option
def restart_workers(client: AdminClient, as_json: bool) -> None:
    """Replace all workers, one after the other; no request is lost."""
    document = client.post("/api/v1/restart-workers", "result", LONG)
    show(document, [] if document["error"] else ["all workers are new"], as_json)
    if document["error"]:
        raise click.ClickException(f"{document['error']}; the one from before serves on")
