"""The alert rules of deploy/, by Prometheus' own means: pages as the proxy writes them, one after
another, and what fires then. What such a page says beside the matter is there, too, so that a rule
which fires for that is found."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.control.statistics import Retired, Totals
from proxy.errors import FAULTS, Side
from proxy.membership import Membership
from proxy.messages import NodeStats, PolicyState, ServiceStats, WorkerStats
from proxy.settings.service import PoolSettings
from proxy.statuses import RegistrySource, RegistryStatus
from tests.support.scraping import book, instance, scrape, several, total

RULES = Path(__file__).parents[2] / "deploy/prometheus/rules.yaml"
ALERTS = {
    rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text("utf-8"))["groups"][0]["rules"]
}
OF_THEIR_OWN = {"no_instance", "no_descriptor", "no_port", "internal"}
"""Faults that have an alert to themselves."""
STEP = 30
"""Seconds between two scrapes. A rule that needs more than a few of them in its window would never
fire where the interval is a minute, which is Prometheus' default."""
PROXY = {"instance": "proxy-1:9900", "job": "fairlead"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)

At = Callable[[int], str]
"""Seconds since the beginning → the page."""


def series(page: At, seconds: int) -> list[dict[str, str]]:
    """What Prometheus makes of the pages: a label that it sets itself is renamed."""
    values: dict[str, dict[int, str]] = {}
    for at in range(0, seconds + 1, STEP):
        for line in page(at).splitlines():
            if line.startswith("#"):
                continue
            name, value = line.rsplit(" ", 1)
            bare, _, labels = name.partition("{")
            labels = re.sub(r"\b(instance|job)=", r"exported_\1=", labels.removesuffix("}"))
            own = ",".join(f'{key}="{text}"' for key, text in PROXY.items())
            values.setdefault(f"{bare}{{{labels}{',' if labels else ''}{own}}}", {})[at] = value
    written = []
    for name, seen in values.items():
        told = []
        for at in range(0, seconds + 1, STEP):
            gone = at - STEP in seen and at not in seen  # Prometheus marks the end of a series.
            told.append(seen.get(at, "stale" if gone else "_"))
        written.append({"series": name, "values": " ".join(told)})
    return written


def check(page: At, tmp_path: Path, *expected: tuple[int, str, dict[str, str]]) -> None:
    """`expected`: at which second, which alert, and its labels beside the proxy's; no other one at
    that time."""
    seconds = max(at for at, _, _ in expected)
    firing: dict[tuple[int, str], list[dict[str, Any]]] = {
        (at, alert): [] for at, _, _ in expected for alert in ALERTS
    }
    for at, alert, labels in expected:
        if alert:
            rule = ALERTS[alert]
            labels = {**PROXY, **labels}
            summary = re.sub(
                r"{{ with \$labels.(\w+) }}( ){{ \. }}{{ end }}",
                lambda m, own=labels: m[2] + own[m[1]] if m[1] in own else "",  # type: ignore[misc]
                rule["annotations"]["summary"],
            )
            summary = re.sub(
                r"{{ \$labels\.(\w+) }}",
                lambda m, own=labels: own.get(m[1], ""),  # type: ignore[misc]
                summary,
            )
            firing[at, alert].append(
                {
                    "exp_labels": {**labels, **rule["labels"]},
                    "exp_annotations": {"summary": summary},
                }
            )
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": series(page, seconds),
                "alert_rule_test": [
                    {"eval_time": f"{at}s", "alertname": alert, "exp_alerts": alerts}
                    for (at, alert), alerts in firing.items()
                ],
            }
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump(tests, allow_unicode=True), "utf-8")
    run = subprocess.run(
        ["promtool", "test", "rules", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def registry(**more: Any) -> RegistryStatus:
    return RegistryStatus(**{"provider": "etcd", "connected": True, "age": 1.0, **more})


def counted(
    requests: int = 0, away: tuple[str, ...] = (), unrouted: int = 0, **faults: int
) -> Totals:
    """What one worker has counted of `users`; `unrouted`: of what met no route."""
    zero = [0] * 16
    stats = {
        name: ServiceStats({"GET 200": count}, zero, 0.0, dict(of), {}, {}, 0, 0)
        for name, count, of in (("users", requests, faults), ("", unrouted, {"no_route": unrouted}))
    }
    nodes = [
        NodeStats("users", f"{id_}@10.0.0.1:80", requests, {"ok": requests}, id_ in away, False)
        for id_ in ("a", "b")
    ]
    return total(Retired(), [WorkerStats(0, 3, 1, stats, nodes, states={"users": PolicyState()})])


def situation(**more: Any) -> str:
    """A page on which all is well, but for what is given."""
    pools = more.pop("pools", book(instance("a"), instance("b")))
    totals = more.pop("totals", counted(100))
    return scrape(pools, totals, **{"registry": registry(), **more})


@needs_promtool
class TestQuiet:
    def test_while_all_is_well(self, tmp_path: Path) -> None:
        check(lambda at: situation(totals=counted(100 + 50 * at)), tmp_path, (1800, "", {}))

    def test_when_an_instance_deregisters(self, tmp_path: Path) -> None:
        pools = book(instance("a"), instance("b"))

        def page(at: int) -> str:
            if at == 300:
                pools.apply(Membership(services={"users": (instance("b"),)}), 1.0)
            return situation(pools=pools, totals=counted(50 * at))

        check(page, tmp_path, (300, "", {}), (420, "", {}), (1200, "", {}))

    def test_when_a_service_is_taken_out_of_use(self, tmp_path: Path) -> None:
        pools = book(instance("a"), instance("b"))

        def page(at: int) -> str:
            if at == 300:
                pools.apply(Membership(services={}), 1.0)
            return situation(pools=pools, totals=counted(50 * min(at, 300)))

        check(page, tmp_path, (330, "", {}), (390, "", {}), (600, "", {}), (1200, "", {}))

    def test_when_the_last_instance_is_drained(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            pools = book(instance("a", health="healthy" if at < 300 else "draining"))
            return situation(pools=pools, totals=counted(50 * min(at, 300)))

        check(page, tmp_path, (390, "", {}), (900, "", {}))

    def test_when_the_only_instance_is_replaced_within_a_minute(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            pools = book() if at == 300 else book(instance("a"))
            refused = 20 if at >= 300 else 0
            faults = {"no_instance": refused} if refused else {}
            return situation(pools=pools, totals=counted(50 * at, **faults))

        check(page, tmp_path, *((at, "", {}) for at in range(300, 900, STEP)))

    def test_when_an_instance_is_gone_until_its_lease_ends(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            away = ("a",) if 300 <= at < 330 else ()
            return situation(totals=counted(50 * at, away))

        check(page, tmp_path, (330, "", {}), (450, "", {}))

    def test_when_the_registry_is_restarted(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            return situation(registry=registry(connected=at != 300, age=float(at == 300) * 20))

        check(page, tmp_path, (300, "", {}), (360, "", {}))

    def test_when_the_proxy_is_restarted(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            if at == 300:
                return ""
            return situation(totals=counted(50 * (at if at < 300 else at - 300), closed_early=1))

        check(page, tmp_path, (300, "", {}), (390, "", {}), (900, "", {}))

    def test_when_one_request_in_a_while_fails(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            return situation(totals=counted(at // 120, **({"closed_early": 1} if at > 299 else {})))

        check(page, tmp_path, *((at, "", {}) for at in range(300, 1200, STEP)))

    def test_when_strangers_ask_for_what_is_not_there(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            faults = {
                code: 1 + 9 * at for code, fault in FAULTS.items() if fault.side is Side.CLIENT
            }
            return situation(totals=counted(10 * at, unrouted=50 * at, **faults))

        check(page, tmp_path, (900, "", {}))


@needs_promtool
class TestFiring:
    def test_an_instance_that_cannot_be_connected_to(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            return situation(totals=counted(50 * at, ("a",) if at >= 300 else ()))

        who = {"service": "users", "upstream": "a"}
        check(page, tmp_path, (390, "", {}), (420, "FairleadUnreachable", who))

    def test_a_service_that_is_asked_for_and_has_nobody(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            pools = book(instance("a")) if at < 300 else book()
            refused = {"no_instance": at - 290} if at >= 300 else {}
            return situation(pools=pools, totals=counted(50 * at, **refused))

        who = {
            "service": "users", "fault": "no_instance", "error": "destination_unavailable",
        }  # fmt: skip
        check(page, tmp_path, (300, "", {}), (420, "FairleadNoInstance", who),
              (1200, "FairleadNoInstance", who))  # fmt: skip

    def test_a_service_that_nobody_has_ever_registered(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            faults = {"no_instance": at} if at else {}
            return scrape(book(), counted(at, **faults), registry=registry()).replace(
                'service_instances{service_name="users"', 'service_instances{service_name="other"'
            )

        who = {
            "service": "users", "fault": "no_instance", "error": "destination_unavailable",
        }  # fmt: skip
        check(page, tmp_path, (300, "FairleadNoInstance", who))

    def test_a_service_none_of_whose_instances_is_ready(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            health = "healthy" if at < 300 else "bad"
            return situation(pools=book(instance("a", health=health)), totals=counted(50 * at))

        check(page, tmp_path, (300, "", {}), (330, "FairleadPanic", {"service": "users"}))

    def test_fallback_instances_in_use(self, tmp_path: Path) -> None:
        settings = {"users": PoolSettings(fallback=(instance("z"),))}
        pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0, settings=settings)
        check(
            lambda at: situation(pools=pools), tmp_path,
            (30, "", {}), (60, "FairleadFallback", {"service": "users"}),
        )  # fmt: skip

    @pytest.mark.parametrize(
        "fault",
        [
            code for code, fault in FAULTS.items()
            if fault.side is not Side.CLIENT and code not in OF_THEIR_OWN
        ],
    )  # fmt: skip
    def test_requests_that_fail(self, tmp_path: Path, fault: str) -> None:
        def page(at: int) -> str:
            faults = {fault: 10 * (at - 299)} if at >= 300 else {}
            return situation(totals=counted(50 * at, **faults))

        who = {"service": "users", "fault": fault}
        check(page, tmp_path, (600, "", {}), (690, "FairleadErrors", who))

    @pytest.mark.parametrize("fault", ["no_descriptor", "no_port"])
    def test_no_room_for_connections(self, tmp_path: Path, fault: str) -> None:
        """Also where no request is counted, because none is read."""

        def page(at: int) -> str:
            text = situation()
            if at < 300:
                return text
            labels = f'service="",error="connection_limit_reached",fault="{fault}"'
            return f"{text}fairlead_proxy_errors_total{{{labels}}} {at}\n"

        check(page, tmp_path, (600, "", {}), (660, "FairleadExhausted", {"fault": fault}))

    def test_errors_inside(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            return situation(totals=counted(50 * at, internal=at))

        check(page, tmp_path, (270, "", {}), (360, "FairleadInternalErrors", {"service": "users"}))

    def test_a_registry_that_is_away(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            away = max(0, at - 300)
            return situation(registry=registry(connected=not away, age=float(away + 1)))

        check(
            page, tmp_path,
            (360, "", {}), (390, "FairleadRegistryLost", {}), (570, "FairleadRegistryLost", {}),
            (630, "FairleadRegistryLost", {}), (630, "FairleadRegistryStale", {}),
        )  # fmt: skip

    def test_a_registry_that_was_never_there(self, tmp_path: Path) -> None:
        check(
            lambda at: situation(registry=registry(connected=False, age=None)), tmp_path,
            (30, "", {}), (270, "FairleadRegistryLost", {}),
            (300, "FairleadRegistryLost", {}), (300, "FairleadRegistryNeverSeen", {}),
        )  # fmt: skip

    def test_one_of_several_registries_that_is_away(self, tmp_path: Path) -> None:
        one = {"registry": "new"}
        check(
            lambda at: situation(registry=several(sources=())), tmp_path,
            (30, "", {}), (60, "FairleadRegistryLost", one),
            (300, "FairleadRegistryLost", one), (300, "FairleadRegistryNeverSeen", one),
        )  # fmt: skip

    def test_a_source_that_is_away_while_another_one_is_in_use(self, tmp_path: Path) -> None:
        sources = several().parts["old"].sources
        check(
            lambda at: situation(registry=registry(sources=sources)), tmp_path,
            (270, "", {}), (300, "FairleadRegistrySourceDown", {"source": "0"}),
        )  # fmt: skip

    def test_sources_that_are_all_away_are_a_registry_that_is(self, tmp_path: Path) -> None:
        sources = (RegistrySource(provider="etcd", alive=False),) * 2
        check(
            lambda at: situation(registry=registry(connected=False, sources=sources)), tmp_path,
            (300, "FairleadRegistryLost", {}),
        )  # fmt: skip

    def test_records_that_cannot_be_read(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            return scrape(book(instance("a"), instance("b")), counted(100))

        check(page, tmp_path, (270, "", {}), (300, "FairleadUnreadableRecords", {}))

    def test_a_breaker_that_is_open(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            totals = counted(100)
            if at >= 60:
                stats = WorkerStats(0, 3, 1, {}, [], states={"users": PolicyState("open", 0)})
                totals = total(Retired(), [stats])
            return situation(totals=totals)

        check(page, tmp_path, (60, "", {}), (90, "FairleadBreakerOpen", {"service": "users"}))

    def test_failing_instances_that_stay(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            refused = {("users", "last_ready"): at} if at >= 60 else {}
            return situation(refused_ejections=refused)

        who = {"service": "users", "rule": "last_ready"}
        check(page, tmp_path, (330, "", {}), (390, "FairleadNotEjected", who))

    @pytest.mark.parametrize(
        ("alert", "sample", "since"),
        [
            ("FairleadReloadRefused", "fairlead_config_last_reload_success 0", 300),
            ("FairleadSharedConfigRefused", "fairlead_shared_config_good 0", 120),
            ("FairleadSharedConfigLost", "fairlead_shared_config_up 0", 300),
            ("FairleadControlLate", "fairlead_control_lag_seconds 0.6", 180),
        ],
    )
    def test_a_state_that_does_not_pass(
        self, tmp_path: Path, alert: str, sample: str, since: int
    ) -> None:
        def page(at: int) -> str:
            value = (
                sample if at >= 300 else sample.partition(" ")[0] + f" {int('lag' not in sample)}"
            )
            return f"{situation()}{value}\n"

        check(page, tmp_path, (300 + since - STEP, "", {}), (300 + since, alert, {}))

    def test_a_worker_that_is_late_for_minutes(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            return situation(lags={0: 0.3 if at >= 300 else 0.01, 1: 0.3 * (at % 60 == 0)})

        check(page, tmp_path, (450, "", {}), (480, "FairleadWorkerLate", {"worker": "0"}))

    def test_a_certificate_that_is_about_to_expire(self, tmp_path: Path) -> None:
        of = {"listener": "https", "service": "", "certificate": "a.example"}
        name = "fairlead_certificate_expiry_timestamp_seconds"
        week = 7 * 86400

        def page(at: int) -> str:
            return situation(samples=[(name, of, week + 301)])

        told = {"listener": "https", "certificate": "a.example"}
        check(page, tmp_path, (3900, "", {}), (3930, "FairleadCertificateExpires", told))

    def test_a_relay_that_tells_nothing_cuts_or_is_full(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            bad = at >= 300
            lines = [f"fairlead_relay_up {int(not bad)}"]
            lines += [f"fairlead_relay_followers {1900 if bad else 1700}"]
            for reason in ("slow", "stale", "refused"):
                lines += [f'fairlead_relay_cut_total{{reason="{reason}"}} {max(0, at - 300)}']
            return situation() + "\n".join(lines) + "\n"

        check(page, tmp_path, (390, "", {}), (420, "FairleadRelayDown", {}))
        full = [(720, alert, {}) for alert in ("FairleadRelayDown", "FairleadRelayFull")]
        check(page, tmp_path, *full)
        cuts = [(1020, "FairleadRelayCuts", {"reason": reason}) for reason in ("refused", "slow")]
        check(page, tmp_path, *((1020, one, of) for _, one, of in full), *cuts)

    def test_a_certificate_that_is_not_obtained(self, tmp_path: Path) -> None:
        name = "fairlead_acme_orders_total"

        def orders(issued: int) -> At:
            def page(at: int) -> str:
                failed = (at >= 300) + (at >= 420) + (at >= 720)
                return situation(
                    samples=[
                        (name, {"name": "a.example", "result": "failed"}, failed),
                        (name, {"name": "a.example", "result": "issued"}, issued * (at >= 900)),
                    ]
                )

            return page

        told = {"name": "a.example", "result": "failed"}
        check(orders(0), tmp_path, (990, "", {}), (1200, "FairleadAcmeFails", told))
        check(orders(1), tmp_path, (1200, "", {}))

    def test_lines_and_spans_that_are_lost(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            lost = max(0, at - 300)
            text = situation().replace(
                "fairlead_access_log_dropped_total 0", f"fairlead_access_log_dropped_total {lost}"
            )
            return f'{text}fairlead_spans_total{{result="dropped"}} {lost}\n'

        spans = {"result": "dropped"}
        check(page, tmp_path, (360, "", {}), (390, "FairleadAccessLogLost", {}),
              (960, "FairleadAccessLogLost", {}), (960, "FairleadSpansLost", spans))  # fmt: skip

    def test_a_filter_that_fails(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            text = situation()
            for outcome, count in (("denied", at), ("auth_unavailable", max(0, at - 300))):
                labels = f'filter="login",outcome="{outcome}"'
                text += f"fairlead_filter_ends_total{{{labels}}} {count}\n"
            return text

        check(page, tmp_path, (600, "", {}), (690, "FairleadFilterFails", {"filter": "login"}))

    def test_instances_that_answer_with_errors(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            bad = max(0, at - 300) * 4
            stats = ServiceStats(
                {"GET 200": 50 * at, "GET 500": bad}, [0] * 16, 0.0, {}, {}, {}, 0, 0
            )
            return situation(totals=total(Retired(), [WorkerStats(0, 3, 1, {"users": stats}, [])]))

        who = {"service": "users"}
        check(page, tmp_path, (600, "", {}), (900, "FairleadServerErrors", who))

    def test_requests_that_take_too_long(self, tmp_path: Path) -> None:
        def page(at: int) -> str:
            slow = max(0, at - 300)
            buckets = [50 * at, *[0] * 12, slow, 0, 0]
            stats = ServiceStats({"GET 200": 50 * at + slow}, buckets, 0.0, {}, {}, {}, 0, 0)
            return situation(totals=total(Retired(), [WorkerStats(0, 3, 1, {"users": stats}, [])]))

        check(page, tmp_path, (600, "", {}), (1200, "FairleadSlow", {"service": "users"}))


def test_every_alert_is_tested() -> None:
    named = re.findall(r'"(Fairlead\w+)"', Path(__file__).read_text("utf-8"))
    assert set(named) == set(ALERTS)


def test_the_faults_that_are_left_out_are_those_that_are_meant() -> None:
    rule = ALERTS["FairleadErrors"]["expr"]
    (types,), (faults,) = (
        re.findall(r'error!~"([^"]*)"', rule),
        re.findall(r'fault!~"([^"]*)"', rule),
    )
    assert set(faults.split("|")) == OF_THEIR_OWN
    for code, fault in FAULTS.items():
        assert (fault.error in types.split("|")) == (fault.side is Side.CLIENT), code
