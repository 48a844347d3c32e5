"""What /metrics says passes Prometheus' own lint, and shows partitions, alerts and the busiest ports."""

import re
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from detectors.contract import Action, Alert, AlertState, Command, Severity, Wording
from detectors.pipeline import Tally
from streams.worker.codec import decode
from streams.worker.metrics import BUSIEST, Metrics, PartitionGauges, PartitionView, metrics_page
from tests.conftest import require
from tests.servers import Promtool

DOCS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"

ALERT = Alert(
    alert_id="unfiled-1",
    detector="signature",
    rule="unfiled",
    state=AlertState.OPEN,
    severity=Severity.WARNING,
    access_port="10690010",
    ports=["10690010"],
    first_seen_ms=0,
    last_seen_ms=10_000,
    detected_event_ms=20_000,
    summary=Wording("", ""),
    evidence={},
    runbook="",
)


def exposed() -> str:
    """The exposition of a worker that has seen one of everything."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    offsets = np.arange(2, dtype=np.int64)
    metrics.decoded(2, decode([b"{}", b'{"x":1}'], offsets, None))
    metrics.accounted(Tally(), Tally(submits_in=4, counted=1, late=1, duplicate=1), {"not-json": 1})
    metrics.told([ALERT], [Command("c", Action.THROTTLE, "10690010", 2.0, "unfiled-1", "volume-flash", 0, 1)])
    metrics.limited({}, {"protected": 1})
    metrics.deliveries.labels("ok").inc()
    metrics.stage_seconds.labels("decode").inc(0.25)
    rates = {f"1069{n:04d}": float(n) for n in range(BUSIEST + 10)}
    view = PartitionView(clock_ms=90_000, next_offset=5, end_offset=12, tally=Tally(submits_in=1), rates=rates)
    view.open_alerts.append(ALERT)
    registry.register(PartitionGauges(lambda: {3: view, 4: PartitionView()}, lambda: 100.0, lambda: 50.0, lambda: 7.0))
    return generate_latest(registry).decode()


def samples() -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(exposed())
        for sample in family.samples
    }


@pytest.mark.observability
def test_promtool_finds_nothing_to_mend() -> None:
    require(Promtool.missing())
    result = Promtool.run("check", "metrics", stdin=exposed())
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_page_says_what_each_means() -> None:
    page = DOCS_PAGE.read_text("utf-8")
    assert page == metrics_page()
    seen = {family.name for family in text_string_to_metric_families(exposed())}
    assert seen == {name.removesuffix("_total") for name in re.findall(r"^\| `(\w+)`", page, re.MULTILINE)}


def test_every_name_begins_with_portwatch() -> None:
    assert {name.partition("_")[0] for name, _ in samples()} == {"portwatch"}


def test_gauges_are_of_the_partitions_that_are_assigned() -> None:
    seen = samples()
    assert seen["portwatch_consumer_lag_records", ("3",)] == 7
    assert seen["portwatch_event_time_lag_seconds", ("3",)] == 10
    assert ("portwatch_event_time_lag_seconds", ("4",)) not in seen
    assert seen["portwatch_balance_difference", ("3",)] == 1
    assert seen["portwatch_registry_age_seconds", ()] == 7


def test_only_the_busiest_ports_have_a_series_and_the_rest_is_counted() -> None:
    seen = samples()
    series = [labels for name, labels in seen if name == "portwatch_port_submit_rate"]
    assert len(series) == BUSIEST
    assert ("10690010",) in series
    assert ("10690009",) not in series
    assert seen["portwatch_topk_dropped", ()] == 10


def test_an_open_alert_has_a_series_of_its_port() -> None:
    seen = samples()
    assert seen["portwatch_detections_active", ("10690010", "unfiled")] == 1
    assert seen["portwatch_alerts_open", ("signature", "unfiled", "warning")] == 1
    assert seen["portwatch_alerts_total", ("unfiled", "open")] == 1
    assert seen["portwatch_rejected_total", ("not-json",)] == 1
