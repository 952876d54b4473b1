"""The admin API's documents as lines for people. Pure.

What is in the registry was written by others and must not drive a terminal: no line holds
characters that cannot be printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

MAX_CELL = 255
"""Characters of a cell that are shown."""


def services(document: dict[str, Any]) -> Iterator[str]:
    """`fairlead services`."""
    yield from _table(
        [
            *("SERVICE", "READY", "UNHEALTHY", "EJECTED", "DRAINING", "BALANCER", "SOURCE"),
            *_LATE,
            "",
        ],
        [
            [
                row["name"],
                f"{row['ready']}/{row['total']}",
                row["unhealthy"],
                row["ejected"],
                row["draining"],
                row["balancer"],
                row["source"],
                *_late(row),
                ", ".join([*(short for short, _, _ in _unusual(row)), *_refused(row)]),
            ]
            for row in document["services"]
        ],
        "no services",
    )
    for id_, reason in document.get("not_asked", {}).items():
        yield printable(f"not asked: {id_}: {reason}")


def fleet(document: dict[str, Any]) -> Iterator[str]:
    """`fairlead fleet`."""
    yield from _table(
        ["PROXY", "VERSION", "READY", "CONFIGURATION", "REQUESTS/S", "CONNECTIONS", "ADMIN"],
        [
            [
                row["id"],
                row.get("version", ""),
                "yes" if row.get("ready") else "; ".join(row.get("missing", ["no"])),
                _configuration(row.get("config")),
                row.get("load", {}).get("requests", ""),
                row.get("load", {}).get("connections", ""),
                row.get("admin") or "-",
            ]
            for row in document["proxies"]
        ],
        "no proxies",
    )
    for one in document.get("ejected_by_most", ()):
        yield f"ejected by most: {one['instance']}, by {one['proxies']} of {one['of']} proxies"
    for mark in document["marks"]:
        until = f", until {mark['until']}" if mark["until"] else ""
        yield f"drained everywhere: {mark['service']}/{mark['instance']}, by {mark['by']}{until}"


def _configuration(told: dict[str, Any] | None) -> str:
    if told is None:
        return "its own"
    more = (" canary" * told["canary"], " (the newest is bad)" * (not told["good"]))
    return f"{told['hash']}{''.join(more)}"


def instances(document: dict[str, Any]) -> Iterator[str]:
    """`fairlead instances SERVICE`; of whom an instance is, if there are several."""
    several = len({row.get("origin") for row in document["instances"]}) > 1
    yield from _table(
        [
            *("INSTANCE", "ENDPOINT", "STATUS", "WEIGHT", "VERSION"),
            *("IN FLIGHT", "REQUESTS", "FAILED", *_LATE, "LAST FAILURE"),
            *(["FROM"] * several),
            "REASON",
        ],
        [
            [
                row["id"],
                _endpoint(row),
                row["status"],
                row["weight"],
                row["version"],
                "-" if row["inflight"] is None else row["inflight"],
                row["requests"],
                row["failures"],
                *_late(row),
                _last_failure(row.get("last_failure")),
                *([row.get("origin") or "-"] * several),
                row["reason"] or _doubts(row),
            ]
            for row in document["instances"]
        ],
        "no instances",
    )
    for _, what, told in _unusual(document):
        yield f"{what}: {told}"
    yield from _records(document)


_LATE = ("RATE", "ERRORS", "P50", "P95", "P99")


def _late(row: dict[str, Any]) -> tuple[str, ...]:
    """The last minute in a row: rates per second, times in milliseconds."""
    if "rate" not in row:  # An older proxy says nothing of it.
        return ("-",) * len(_LATE)
    took = (milliseconds(row["latency"][share]) for share in ("p50", "p95", "p99"))
    return (f"{row['rate']:.1f}/s", f"{row['error_rate']:.1f}/s", *took)


def _last_failure(told: dict[str, Any] | None) -> str:
    return "-" if told is None else f"{told['code']}, {told['age']:.0f} s ago"


def milliseconds(seconds: float | None) -> str:
    """`1.3 ms`, or `-` for what is not known; three digits are all that is known."""
    return "-" if seconds is None else f"{float(f'{seconds * 1000:.3g}'):g} ms"


def reloaded(document: dict[str, Any], dry_run: bool) -> Iterator[str]:
    """`fairlead reload`."""
    for complaint in document["complaints"]:
        yield printable(complaint)
    if document["complaints"]:
        yield "the configuration from before serves on"
        return
    for one in document["changes"]:
        before, after = one["before"], one["after"]
        what = f"{before} → {after}" if before and after else "added" if after else "removed"
        yield printable(f"{one['key']}: {what}")
    if not document["changes"]:
        yield "nothing has changed"
    elif dry_run:
        yield "nothing was put in force (--dry-run)"


def event(kind: str, fields: dict[str, Any]) -> str:
    """`fairlead events`: one event in one line."""
    told = dict(fields)
    at = datetime.fromtimestamp(told.pop("time", 0.0)).isoformat(" ", "milliseconds")
    words = (
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in told.items()
        if value not in ("", [], 0)
    )
    return printable(_short(f"{at}  {kind:24}  {' '.join(words)}".rstrip(), 4096))


def registry(document: dict[str, Any]) -> Iterator[str]:
    """`fairlead registry`."""
    where = document["endpoint"] or "no endpoint"
    yield f"registry   {document['provider']}"
    yield f"connected  {'yes, ' + where if document['connected'] else 'no'}"
    if document["last_error"]:
        yield printable(f"error      {document['last_error']}")
    age = document["age"]
    yield f"age        {'never answered' if age is None else f'{age:.1f} s'}"
    yield f"revision   {document['revision']}"
    yield f"instances  {document['instances']}"
    if formats := document.get("formats"):  # An older proxy says nothing of them.
        yield f"formats    {', '.join(f'{name} {number}' for name, number in formats.items())}"
    if not document["complete"]:
        yield "           the first full set is not known yet"
    for source in document["sources"]:
        state = "in use" if source["active"] else _ALIVE[source["alive"]]
        name = f"{source['name']}: " if source.get("name") else ""
        yield f"source     {name}{source['provider']} {', '.join(source['endpoints'])}: {state}"
    for one in document.get("registries", ()):
        yield printable(f"of {one['name']:<7} {_of_one(one)}")
    snapshot = document["snapshot"]
    if snapshot is not None:
        state = "in use" if snapshot["in_use"] else "not in use"
        aged = "" if snapshot["age"] is None else f", {snapshot['age']:.0f} s old"
        wrong = f": {snapshot['error']}" if snapshot["error"] else ""
        yield printable(f"snapshot   {snapshot['path']}, {state}{aged}{wrong}")
    for one in document["held"]:
        why = f"{one['why']}, {one['age']:.0f} s ago"
        yield printable(f"held       {one['service']}/{one['id']}: {why}")
    yield from _records({"refused": document["invalid"], "odd": document.get("odd", [])})


def _of_one(registry: dict[str, Any]) -> str:
    """A line about one of several registries."""
    age = registry["age"]
    heard = "never answered" if age is None else f"last answer {age:.1f} s ago"
    known = f"{count(registry['instances'], 'instance')}, {heard}"
    tries = f"{count(registry['connects'], 'connect')}, {count(registry['errors'], 'error')}"
    return f"{known}, {tries}"


def _refused(row: dict[str, Any]) -> list[str]:
    refused = len(row.get("refused", ()))
    return [f"{count(refused, 'record').upper()} REFUSED"] if refused else []


_ALIVE = {True: "answers", False: "does not answer", None: "not checked yet"}


def _records(document: dict[str, Any]) -> Iterator[str]:
    """The records of a service, or of the registry, with which something is wrong."""
    for record in document.get("refused", ()):  # An older proxy says nothing of them.
        kept = "; what it said before is served" if record["kept"] else ""
        yield printable(f"refused    {record['key']}: {record['reason']}{kept}")
    for record in document.get("odd", ()):
        yield printable(f"odd        {record['key']}: {record['reason']}")


def explained(document: dict[str, Any]) -> Iterator[str]:
    """`fairlead explain`, in the order in which a request goes through it."""
    request = document["request"]
    yield f"request    {request['method']} {request['url']}"
    for route in document["routes"]:
        mark = "->" if route["taken"] else "  "
        yield f"route {route['index']:>3} {mark} {_route_words(route)}: {route['reason']}"
    for one in document.get("refused_routes", ()):
        yield f"refused    {one['route']} of {one['service']}: {one['reason']}"
    split = document.get("split")
    if split:
        shares = (f"{service} {weight}" for service, weight in split.items())
        yield f"split      {', '.join(shares)}"
    if document["service"]:
        yield f"service    {document['service']}"
    if document["service"] or split:
        yield f"path       {document['path_for_instance']}"
    if document["filters"]:
        yield f"filters    {', '.join(document['filters'])}"
    if (callers := document.get("callers")) is not None:
        dry = " (dry_run: counted, and let through)" if callers["dry_run"] else ""
        said = f"{callers['refused']}{dry}" if callers["refused"] else "may call"
        yield f"caller     {callers['caller'] or 'nobody'}: {said}"
    if "balancer" in document:
        key = document["key"]
        by = ""
        if key is not None:
            value = (
                "nothing in this request: a random pick" if key["value"] is None else key["value"]
            )
            by = f" by {key['source']} ({value})"
        yield f"balancer   {document['balancer']}{by}"
        yield from _limits(document["limits"], len(document["candidates"]))
        for _, what, told in _unusual(document):
            yield f"{what:9}  {told}"
        for mark, rows in (("may be picked", "candidates"), ("not picked", "others")):
            for row in document[rows]:
                reason = f" ({row['reason']})" if row["reason"] else ""
                busy = f", {row['inflight']} in flight" if row.get("inflight") else ""
                yield f"{mark:13}  {row['id']}  {_endpoint(row)}  {row['status']}{reason}{busy}"
    answer = document["answer"]
    if answer is not None:
        fault = answer.get("fault")
        why = f"by {answer['by']}" if fault is None else f"{fault}: {answer['detail']}"
        yield f"answer     {answer['status']} {why}"


def _limits(limits: dict[str, Any], candidates: int) -> Iterator[str]:
    """Where the limits stand that a request meets, of those that are set."""
    rate = limits["rate_limit"]
    if rate is not None:
        left = "as many as are left" if rate["left"] is None else f"{rate['left']:g}"
        value = "requests without it" if rate["value"] is None else rate["value"]
        yield f"rate_limit {left} of {rate['burst']:g} for {rate['key']} ({value})"
    if limits["max_inflight"] is not None:
        full = f"{limits['full']} of {count(candidates, 'instance')} full"
        yield f"in flight  {limits['max_inflight']} for each instance at most; {full}"
    if limits["queue"]:
        yield f"queue      {limits['waiting']} waiting, {limits['queue']} in each worker at most"


def _unusual(service: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The oddities of a service, of a document that has it: in a word or two for a list, what it is
    about, and a sentence."""
    if service.get("panic"):
        yield "PANIC", "panic", "too few instances are ready, so health is ignored"
    if service.get("source") == "fallback":
        told = "the registry knows no instance, so fallback_instances are used"
        yield "FALLBACK", "fallback", told
    limits = service.get("limits") or {}
    breakers = limits.get("breaker") or {}
    all_ = sum(breakers.values())
    for state, effect in (
        ("open", "requests are answered 503 at once"),
        ("trying", "a few requests are let through, and decide"),
    ):
        if number := breakers.get(state, 0):
            told = f"{state} in {number} of {count(all_, 'worker')}: {effect}"
            yield f"BREAKER {state.upper()} {number}/{all_}", "breaker", told
    waiting = count(limits.get("waiting", 0), "request")
    if full := limits.get("queue_full", 0):
        told = f"full in {count(full, 'worker')}, {waiting} in all: what comes on top gets 503"
        yield "QUEUE FULL", "queue", told
    elif limits.get("waiting"):
        yield "QUEUE", "queue", f"{waiting} in all, for an instance with room"


def _route_words(route: dict[str, Any]) -> str:
    """A route's conditions in a few words."""
    hosts = [*([route["host"]] if "host" in route else []), *route.get("hosts", ())]
    paths = [f"{path} exactly" for path in [route.get("path"), *route.get("paths", ())] if path]
    paths += [path for path in [route.get("path_prefix"), *route.get("path_prefixes", ())] if path]
    paths += [route["path_regex"]] if "path_regex" in route else []
    words = [f"host {' or '.join(hosts)}"] if hosts else []
    words += [f"path {' or '.join(paths)}"] if paths else []
    words += ["|".join(route["methods"])] if "methods" in route else []
    words += [f"{name}: {value}" for name, value in route.get("headers", {}).items()]
    words += [f"?{name}={value}" for name, value in route.get("query", {}).items()]
    words += [f"{key}={value} of an instance" for key, value in route.get("where", {}).items()]
    words += [f"by {' or '.join(route['listeners'])}"] if "listeners" in route else []
    return ", ".join(words) or "everything"


def _doubts(row: dict[str, Any]) -> str:
    """The reasons why an instance that is ready is avoided all the same; "" = none."""
    if workers := row["unreachable_from"]:
        return f"no connection from {count(workers, 'worker')}"
    if workers := row["on_probation_in"]:
        return f"on probation in {count(workers, 'worker')}"
    return ""


def _endpoint(row: dict[str, Any]) -> str:
    """As in a URL."""
    address = row["address"]
    return f"[{address}]:{row['port']}" if ":" in address else f"{address}:{row['port']}"


def _table(head: list[str], rows: list[list[Any]], empty: str) -> Iterator[str]:
    """Columns as wide as their widest cell; nothing after the last one."""
    if not rows:
        yield empty
        return
    lines = [head, *([printable(_short(str(cell))) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _short(text: str, longest: int = MAX_CELL) -> str:
    """A version may have 64 KiB; names are shown whole."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def count(number: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def printable(text: str) -> str:
    """Without control characters."""
    return "".join(char if char.isprintable() else "�" for char in text)
