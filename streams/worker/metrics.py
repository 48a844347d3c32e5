"""Every `portwatch_` metric, declared once. Counters grow where things happen; gauges are read when somebody scrapes.

No series per port, except the busiest `BUSIEST` and the ports with an open alert; what was cut is itself a metric.
"""

import heapq
import platform
from collections import Counter as Tallies
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from detectors.ceilings import Ceiling
from detectors.contract import Alert, AlertState, Command
from detectors.pipeline import Tally
from streams.worker.codec import Decoded

BUSIEST = 50
"""Ports with a rate of their own on /metrics; 100,000 would cost 13 MB and 2.5 s a scrape (measured)."""

MOST_ACTIVE = 1_000
"""Open alerts with a series of their own."""

DETECTION_BUCKETS_S = (10, 20, 30, 60, 120, 300, 900, 3_600)

disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped


@dataclass(slots=True)
class PartitionView:
    """What the gauges show of one assigned partition. Moments are monotonic: the wall clock may jump."""

    clock_ms: int = 0
    next_offset: int = 0
    end_offset: int = 0
    committed_at_s: float = 0.0
    answered_at_s: float = 0.0  # when Kafka's last answer to a fetch was noticed
    advanced_at_s: float = 0.0  # when its offset last moved, or Kafka last said: nothing to read
    is_caught_up: bool = False  # Kafka says so, and said so just now
    tally: Tally = field(default_factory=Tally)
    tables: Mapping[str, Ceiling] = field(default_factory=dict)
    open_alerts: list[Alert] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)  # access port -> submits a second in its last closed pane

    @property
    def lag(self) -> int:
        return max(0, self.end_offset - self.next_offset)


class Metrics:
    """The counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"portwatch_{name}", help_text, labels, registry=registry)

        self.submits = counter(
            "submits_total", "Submits by outcome: counted, late, misclocked, duplicate, rejected.", "outcome"
        )
        self.rejected = counter("rejected_total", "Records sent to the dead letter topic, by reason.", "reason")
        self.dropped = counter("dropped_fields_total", "Optional fields with a bad value, left out, by field.", "field")
        self.inconsistent = counter("inconsistent_submits_total", "Submits whose recipient count and list differ.")
        self.alerts = counter("alerts_total", "Lifecycle events of alerts, by rule and state.", "rule", "state")
        self.commands = counter("commands_total", "Throttle commands proposed, by action.", "action")
        self.held_back = counter(
            "throttles_held_back_total", "Throttles that were not proposed, by the limit that forbade them.", "limit"
        )
        self.deliveries = counter(
            "alert_deliveries_total",
            "Posts to Alertmanager by outcome: ok, refused, unreachable; and alerts that waited for it too long: shed "
            "(their evidence), dropped.",
            "outcome",
        )
        self.queued = Gauge(
            "portwatch_alert_queue_words",
            "Alerts of which the Alertmanager that is furthest behind has not heard the newest.",
            registry=registry,
        )
        self.most_queued = Gauge(
            "portwatch_alert_queue_limit_words",
            "As many may wait for an Alertmanager before those that are over shed their evidence, the oldest first.",
            registry=registry,
        )
        self.refused_commits = counter("refused_commits_total", "Commits refused: no longer the owner.")
        self.gaps = counter("lost_records_total", "Records that Kafka deleted before they were read.")
        self.stage_seconds = counter(
            "stage_seconds_total", "Time spent by stage: decode, step (of it, each detector), pack.", "stage"
        )
        self.batch_records = Histogram(
            "portwatch_batch_records",
            "Records in one partition batch.",
            buckets=(1, 10, 100, 1_000, 4_000, 16_000, 64_000),
            registry=registry,
        )
        self.detection_seconds = Histogram(
            "portwatch_detection_seconds",
            "Event time from the first sight of an episode to its alert.",
            buckets=DETECTION_BUCKETS_S,
            registry=registry,
        )
        self.detection_wall_seconds = Histogram(
            "portwatch_detection_wall_seconds",
            "Wall clock at an alert minus event time of the first sight of its episode: with the backlog.",
            buckets=DETECTION_BUCKETS_S,
            registry=registry,
        )

    def decoded(self, records: int, decoded: Decoded) -> None:
        """A batch came out of the codec."""
        self.batch_records.observe(records)
        self.inconsistent.inc(decoded.inconsistent)
        for field_name, count in decoded.dropped.items():
            self.dropped.labels(field_name).inc(count)

    def accounted(self, before: Tally, now: Tally, rejected: Mapping[str, int]) -> None:
        """The balance of a partition has moved."""
        for outcome in ("counted", "late", "misclocked", "duplicate"):
            self.submits.labels(outcome).inc(getattr(now, outcome) - getattr(before, outcome))
        for reason, count in rejected.items():
            self.submits.labels("rejected").inc(count)
            self.rejected.labels(reason).inc(count)

    def told(self, alerts: Iterable[Alert], commands: Iterable[Command]) -> None:
        """This was said to the world."""
        for alert in alerts:
            self.alerts.labels(alert.rule, alert.state).inc()
            if alert.state is AlertState.OPEN:
                self.detection_seconds.observe((alert.detected_event_ms - alert.first_seen_ms) / 1_000)
                if alert.detected_ms is not None:
                    self.detection_wall_seconds.observe((alert.detected_ms - alert.first_seen_ms) / 1_000)
        for command in commands:
            self.commands.labels(command.action).inc()

    def limited(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """So many throttles were held back by a limit, in all."""
        for limit, count in now.items():
            self.held_back.labels(limit).inc(count - before.get(limit, 0))


def metrics_page() -> str:
    """docs/metrics.md, generated from the declarations."""
    registry = CollectorRegistry()
    Metrics(registry)
    registry.register(PartitionGauges(lambda: {0: PartitionView()}, lambda: 0.0, lambda: 0.0, lambda: 0.0))
    rows = [
        f"| `{_exposed_name(family)}` | {family.type} | {family.documentation} |\n" for family in registry.collect()
    ]
    return _PAGE_HEAD + "".join(sorted(rows))


_PAGE_HEAD = f"""# Metrics

A worker serves these at `/metrics` (see `PORTWATCH_HTTP_HOST`). No series per port, except the busiest {BUSIEST} and
the ports with an open alert; what was cut is itself a metric. `/healthz` turns 503 when a partition has not advanced
for 30 s, unless Kafka says that there is nothing to read; `/readyz` is 503 until the group has shared its partitions.

| metric | type | meaning |
|---|---|---|
"""


def _exposed_name(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


class PartitionGauges(Collector):
    """Gauges of the partitions that are assigned now: nothing stays behind after a rebalance."""

    def __init__(
        self,
        views: Callable[[], dict[int, PartitionView]],
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
        registry_age_s: Callable[[], float],
    ) -> None:
        self._views = views
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._registry_age_s = registry_age_s

    def collect(self) -> Iterator[Metric]:
        views = self._views()
        yield InfoMetricFamily(
            "portwatch_build",
            "Versions in use.",
            value={
                "version": version("portwatch"),
                "faust": version("faust-streaming"),
                "python": platform.python_version(),
            },
        )
        yield _gauge("registry_age_seconds", "Age of the registry snapshot in force.", self._registry_age_s())
        yield from self._per_partition(views)
        yield from _tables(views)
        yield from _alerts(views.values())
        yield from _busiest(views.values())

    def _per_partition(self, views: dict[int, PartitionView]) -> Iterator[Metric]:
        wall_s, now_s = self._wall_s(), self._monotonic_s()
        families: dict[str, tuple[str, Callable[[PartitionView], float]]] = {
            "event_time_lag_seconds": ("Wall clock minus event time.", lambda v: wall_s - v.clock_ms / 1_000),
            "consumer_lag_records": ("Records in Kafka that are not processed.", lambda v: v.lag),
            "commit_age_seconds": (
                "Time since all that was counted was in a checkpoint.",
                lambda v: now_s - v.committed_at_s,
            ),
            "stalled_seconds": (
                "Time since offsets advanced, or Kafka said that there was nothing to read.",
                lambda v: now_s - v.advanced_at_s,
            ),
            "balance_difference": (
                "Submits in minus submits accounted for; not 0 is a defect.",
                lambda v: v.tally.difference,
            ),
        }
        for name, (help_text, value) in families.items():
            family = GaugeMetricFamily(f"portwatch_{name}", help_text, labels=["partition"])
            for partition, view in sorted(views.items()):
                if name != "event_time_lag_seconds" or view.clock_ms:
                    family.add_metric([str(partition)], value(view))
            yield family


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"portwatch_{name}", help_text, value=value)


def _tables(views: Mapping[int, PartitionView]) -> Iterator[Metric]:
    labels = ["partition", "table"]
    entries = GaugeMetricFamily("portwatch_table_entries", "Entries of a bounded table of the state.", labels=labels)
    limit = GaugeMetricFamily("portwatch_table_limit", "Entries that the table may have.", labels=labels)
    overflow = CounterMetricFamily(
        "portwatch_table_overflow",
        "Rows, findings or names that found no room in the table: counted together, or not told.",
        labels=labels,
    )
    for partition, view in sorted(views.items()):
        for name, table in view.tables.items():
            entries.add_metric([str(partition), name], table.held)
            limit.add_metric([str(partition), name], table.limit)
            overflow.add_metric([str(partition), name], table.lost)
    yield from (entries, limit, overflow)


def _alerts(views: Iterable[PartitionView]) -> Iterator[Metric]:
    alerts = [alert for view in views for alert in view.open_alerts]
    open_family = GaugeMetricFamily(
        "portwatch_alerts_open", "Alerts that are open.", labels=["detector", "rule", "severity"]
    )
    for key, count in sorted(Tallies((alert.detector, alert.rule, str(alert.severity)) for alert in alerts).items()):
        open_family.add_metric(key, count)
    yield open_family
    shown = heapq.nlargest(MOST_ACTIVE, alerts, key=lambda alert: alert.severity.rank)
    active = GaugeMetricFamily(
        "portwatch_detections_active", "1 for each port and rule with an open alert.", labels=["port", "rule"]
    )
    for port, rule in sorted({(alert.access_port or "", alert.rule) for alert in shown}):
        active.add_metric([port, rule], 1)
    yield active
    yield _gauge("detections_active_dropped", "Open alerts without a series of their own.", len(alerts) - len(shown))


def _busiest(views: Iterable[PartitionView]) -> Iterator[Metric]:
    rates = [(rate, port) for view in views for port, rate in view.rates.items()]
    family = GaugeMetricFamily(
        "portwatch_port_submit_rate",
        "Submits a second of the busiest ports, in their last closed pane.",
        labels=["port"],
    )
    for rate, port in heapq.nlargest(BUSIEST, rates):
        family.add_metric([port], rate)
    yield family
    yield _gauge("topk_dropped", "Busy ports without a series of their own.", max(0, len(rates) - BUSIEST))
