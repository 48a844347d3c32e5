"""How good were the alerts? Injected incidents against what was alerted: caught, how fast, and what was in error.

It reads labels and alerts as JSON values, whoever made them: the worker, a replay, or a baseline that guesses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AFTERMATH_MS = 10 * 60_000
"""An alert still belongs to an incident that has just ended."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Caught:
    """An incident and the alert that caught it; `alert` is None for a miss."""

    incident: Row
    alert: Row | None

    @property
    def delay_s(self) -> float | None:
        """Event time from the beginning of the incident to the decision."""
        if self.alert is None:
            return None
        return max(0.0, float(self.alert["detected_event_ms"] - self.incident["from_ms"]) / 1_000)


@dataclass(frozen=True, slots=True)
class Score:
    """`in_error`: alerts that no incident explains."""

    caught: list[Caught]
    in_error: list[Row]

    @property
    def recall(self) -> float:
        """Share of the incidents that were caught; 1 if there were none."""
        return sum(c.alert is not None for c in self.caught) / len(self.caught) if self.caught else 1.0


def score(labels: Iterable[Row], alerts: Iterable[Row]) -> Score:
    """Match incidents (labels with an `incident`) and opened alerts by port, rule and time."""
    incidents = [label for label in labels if "incident" in label]
    opened = sorted((a for a in alerts if a["state"] == "open"), key=lambda a: a["detected_event_ms"])
    return Score(
        [Caught(incident, next((a for a in opened if _catches(a, incident)), None)) for incident in incidents],
        [a for a in opened if not any(_explains(incident, a) for incident in incidents)],
    )


def _catches(alert: Row, incident: Row) -> bool:
    return alert["rule"] in incident["rules"] and _meet(alert, incident)


def _explains(incident: Row, alert: Row) -> bool:
    """Is the alert right, by one of the rules that may speak of the incident too?"""
    return alert["rule"] in [*incident["rules"], *incident["also"]] and _meet(alert, incident)


def _meet(alert: Row, incident: Row) -> bool:
    extensions: Sequence[str | None] = (None, incident["extension"])
    return (
        alert["access_port"] == incident["access_port"]
        and (incident["extension"] is None or alert["extension"] in extensions)
        and incident["from_ms"] <= alert["detected_event_ms"]
        and alert["first_seen_ms"] < incident["to_ms"] + AFTERMATH_MS
    )
