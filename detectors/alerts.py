"""From findings to alerts: identity and life of an episode (open, updated, resolved).

One episode of one rule on one port (one extension where the rule is about it) is one alert, with an id that depends on
the episode alone, so a redelivery repeats it. Grouping, silences and routing belong to Alertmanager.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from detectors.catalog import RULES
from detectors.ceilings import Ceiling
from detectors.contract import PANE_MS, Alert, AlertState, Finding, Source

GROWTH = 10.0
"""An open alert is told again when its size has grown by this factor, or its severity has risen."""

EpisodeKey = tuple[str, str, str | None]  # rule, access port, extension where the rule is about it


@dataclass(slots=True)
class Episode:
    """`told` is the last lifecycle event that went out, `last` the newest finding."""

    told: Alert
    told_size: float
    last: Finding


@dataclass
class Episodes:
    """The open episodes of one partition. No rule takes all of the room: one that is easily broken by many, such as by
    ports that nobody leased, leaves the other half to the others.
    """

    topic: str
    partition: int
    limit: int = 10_000  # open episodes at once; findings beyond it are counted in `untold`
    open: dict[EpisodeKey, Episode] = field(default_factory=dict)
    untold: int = 0

    def __post_init__(self) -> None:
        # Derived, so not fields: a checkpoint leaves them out.
        self._of_rule = Counter(rule for rule, _, _ in self.open)
        self._none_ends_before_ms = 0

    def ceilings(self) -> Mapping[str, Ceiling]:
        return {"open_alerts": Ceiling(len(self.open), self.limit, self.untold)}

    def resolve(self, now_ms: int, watermark_ms: int) -> Iterator[Alert]:
        """End the episodes that have been quiet until the event time `now_ms`, in the order in which they ended."""
        if now_ms < self._none_ends_before_ms:
            return
        ends_ms = {key: _ends_ms(episode) for key, episode in self.open.items()}
        self._none_ends_before_ms = min((end for end in ends_ms.values() if end > now_ms), default=now_ms)
        for key in sorted((key for key, end in ends_ms.items() if end <= now_ms), key=ends_ms.__getitem__):
            episode = self.open.pop(key)
            self._of_rule[key[0]] -= 1
            yield self._alert(AlertState.RESOLVED, episode.last, episode.told, watermark_ms)

    def tell(self, findings: Iterable[Finding], watermark_ms: int) -> Iterator[Alert]:
        """Begin or continue the episodes of a pane's findings."""
        for finding in findings:
            key = (finding.rule, finding.access_port, finding.extension if RULES[finding.rule].per_extension else None)
            episode = self.open.get(key)
            if episode is None and not self._has_room(finding.rule):
                self.untold += 1
            elif episode is None:
                alert = self._alert(AlertState.OPEN, finding, None, watermark_ms)
                self.open[key] = Episode(alert, finding.size, finding)
                self._of_rule[finding.rule] += 1
                self._none_ends_before_ms = min(self._none_ends_before_ms, _ends_ms(self.open[key]))
                yield alert
            else:
                episode.last = finding
                risen = finding.severity.rank > episode.told.severity.rank
                if risen or finding.size >= GROWTH * episode.told_size:
                    episode.told = self._alert(AlertState.UPDATED, finding, episode.told, watermark_ms)
                    episode.told_size = max(finding.size, episode.told_size)
                    yield episode.told

    def _has_room(self, rule: str) -> bool:
        return len(self.open) < self.limit and self._of_rule[rule] < -(-self.limit // 2)

    def _alert(self, state: AlertState, finding: Finding, told: Alert | None, watermark_ms: int) -> Alert:
        rule = RULES[finding.rule]
        first_seen_ms = told.first_seen_ms if told else finding.at_ms
        severity = max(told.severity, finding.severity, key=lambda s: s.rank) if told else finding.severity
        return Alert(
            alert_id=told.alert_id if told else _alert_id(finding, first_seen_ms),
            detector=rule.detector,
            rule=finding.rule,
            state=state,
            severity=severity,
            access_port=finding.access_port,
            ports=[finding.access_port],
            extension=finding.extension,
            signature=finding.signature,
            lessee_id=finding.lessee_id,
            first_seen_ms=first_seen_ms,
            last_seen_ms=finding.at_ms + PANE_MS,
            detected_event_ms=watermark_ms,
            summary=finding.summary,
            evidence=finding.evidence,
            ruled_out=list(finding.ruled_out),
            legal_basis=list(rule.legal_basis),
            runbook=rule.runbook(finding.rule),
            source=[Source(self.topic, self.partition, offset) for offset in finding.offsets],
        )


def _ends_ms(episode: Episode) -> int:
    """The event time at which the episode is over, if nothing more is found until then."""
    return RULES[episode.last.rule].ends_ms(episode.last.at_ms)


def _alert_id(finding: Finding, first_seen_ms: int) -> str:
    extension = finding.extension if RULES[finding.rule].per_extension else None
    episode = f"{finding.rule}|{finding.access_port}|{extension or ''}|{first_seen_ms}"
    return f"{finding.rule}-{hashlib.blake2b(episode.encode(), digest_size=8).hexdigest()}"
