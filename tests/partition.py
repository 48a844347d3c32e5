"""One partition from rows to alerts, with some detectors only; it may be restarted from its state at any moment."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from detectors.batch import empty_batch
from detectors.contract import PANE_MS, Alert, Detector
from detectors.pipeline import PartitionState, Pipeline
from detectors.registry import Registry
from streams.worker.image import pack, unpack
from tests.rows import START_MS, Row, batch


@dataclass(slots=True)
class Partition:
    """`alerts` is all that was said. Times are in ms after START_MS."""

    registry: Registry
    detectors: tuple[Detector[Any], ...]
    alerts: list[Alert] = field(default_factory=list)
    sent: int = 0
    pipeline: Pipeline = field(init=False)
    state: PartitionState = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = Pipeline(detectors=self.detectors)
        self.state = self.pipeline.start("t", 0)

    def send(self, *rows: Row) -> None:
        """They are received when they happen; ids are given here."""
        numbered = [replace(row, id=self.sent + n, received_ms=row.at_ms) for n, row in enumerate(rows)]
        self.alerts += self.pipeline.step(self.state, batch(numbered, first_offset=self.sent), self.registry).alerts
        self.sent += len(rows)

    def pass_to(self, at_ms: int) -> None:
        """All panes that have ended by then are closed."""
        floor_ms = START_MS + at_ms + self.pipeline.lateness_ms
        self.alerts += self.pipeline.step(self.state, empty_batch(floor_ms), self.registry).alerts

    def restart(self) -> None:
        self.state = unpack([pack(self.state)], self.pipeline)

    def told(self, states: Iterable[str] = ("open",)) -> list[Alert]:
        return [alert for alert in self.alerts if alert.state in states]


def panes(count: int, first: int = 0, **row: Any) -> list[Row]:
    """One row in each of consecutive panes, counted from START_MS."""
    return [Row(id=0, at_ms=(first + n) * PANE_MS, **row) for n in range(count)]
