"""Rule `quiet-hours`: does a port write to people at an hour at which it may not?

Two kinds of hours bind. Those of the lease bind all that its port sends. Marketing is bound by what the trade calls
decent as well, wherever it comes from: by the purpose of the filing, or of the port where nothing is filed. Codes and
notifications are awaited and have only the hours that their lease says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from detectors.batch import Flags, Ints
from detectors.ceilings import Ceiling
from detectors.compliance.quiet_wording import Night, summary
from detectors.contract import Finding, Pane, Severity
from detectors.event_time import HOUR_MS, hour_of
from detectors.groups import Gone, GroupKey, Groups, grown
from detectors.judged import Judged
from detectors.registry import Registry
from detectors.senders import by_port, samples, top_senders
from detectors.signature.judge import authorising
from detectors.terms import Hours, Terms, is_open

MARKETING_HOURS: Hours = (8, 21)
"""No statute names hours. Vendors keep 8-22 (Huawei Cloud, promotion) and 8-21 (Huawei IoT); the trade says 8-21."""

NIGHT_MS = 12 * HOUR_MS
"""What is further apart is another night: longer than the eleven quiet hours of marketing, shorter than its day."""


def _column() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(eq=False)
class QuietHoursState:
    """What came outside of the hours, in this night. Shapes: [>= number of ports], by port code."""

    since_ms: Ints = field(default_factory=_column)
    last_ms: Ints = field(default_factory=_column)
    messages: Ints = field(default_factory=_column)

    def __post_init__(self) -> None:
        # Derived, so not fields: a checkpoint leaves them out.
        self._terms = Terms()
        self._marketing = Judged[bool]()

    def reserve(self, ports: int) -> None:
        for f in fields(self):
            setattr(self, f.name, grown(getattr(self, f.name), ports))

    @property
    def terms(self) -> Terms:
        return self._terms

    @property
    def marketing(self) -> Judged[bool]:
        return self._marketing


@dataclass(frozen=True, slots=True)
class QuietHoursDetector:
    name: str = "quiet-hours"
    marketing_hours: Hours = MARKETING_HOURS
    least_messages: int = 20
    """To people, in one night: what trickles out of a queue at closing time, or a person's trial, wakes nobody up."""

    def start(self) -> QuietHoursState:
        return QuietHoursState()

    def step(self, state: QuietHoursState, pane: Pane, registry: Registry) -> list[Finding]:
        if registry.is_empty:
            return []
        hour = hour_of(pane.start_ms)
        rows = np.flatnonzero(self._is_outside(state, pane, hour, registry) & (pane.recipients > 0))
        return list(self._findings(state, pane, rows, hour, registry)) if len(rows) else []

    def forget(self, state: QuietHoursState, gone: Gone, groups: Groups, at_ms: int) -> None:  # noqa: ARG002 - the protocol's
        state.terms.forget(gone.ports)
        state.marketing.forget(gone.groups)
        ports = gone.ports[gone.ports < len(state.last_ms)]
        state.since_ms[ports] = state.last_ms[ports] = state.messages[ports] = 0

    def ceilings(self, state: QuietHoursState) -> Mapping[str, Ceiling]:  # noqa: ARG002 - as above; its columns are those of `Groups`
        return {}

    def _is_outside(self, state: QuietHoursState, pane: Pane, hour: int, registry: Registry) -> Flags:
        """Of each row of the pane. The overflow is on a port without a name, which nobody leased."""
        ports = pane.groups.port_of[pane.group]
        state.terms.ask(ports, pane.groups, registry, pane.start_ms)
        outside = state.terms.is_closed(ports, hour)
        if not is_open(self.marketing_hours, hour):
            marketing = state.marketing.among(pane.group, is_marketing, pane.groups, registry, pane.start_ms)
            outside |= np.isin(pane.group, marketing)
        return outside

    def _findings(
        self, state: QuietHoursState, pane: Pane, rows: Ints, hour: int, registry: Registry
    ) -> Iterator[Finding]:
        of_row = pane.groups.port_of[pane.group[rows]]
        ports, place = np.unique(of_row, return_inverse=True)
        state.reserve(len(pane.groups.ports))
        anew = ports[state.last_ms[ports] <= pane.start_ms - NIGHT_MS]
        state.since_ms[anew], state.messages[anew] = pane.start_ms, 0
        state.last_ms[ports] = pane.start_ms
        state.messages[ports] += np.bincount(place, pane.recipients[rows]).astype(np.int64)
        for port, places in by_port(of_row, ports[state.messages[ports] >= self.least_messages]):
            mine, name = rows[places], pane.groups.ports[port]
            lease = registry.lease(name, pane.start_ms)
            hours = lease.caps.hours if lease and lease.caps else None
            by_lease = hours is not None and not is_open(hours, hour)
            night = Night(
                messages=int(state.messages[port]),
                since_ms=int(state.since_ms[port]),
                hours=hours if hours and by_lease else self.marketing_hours,
                by_lease=by_lease,
            )
            yield Finding(
                rule="quiet-hours",
                severity=Severity.INFO,
                at_ms=pane.start_ms,
                access_port=name,
                lessee_id=lease.lessee_id if lease else None,
                size=float(night.messages),
                summary=summary(night),
                evidence={
                    **night.evidence,
                    **top_senders(pane.groups, pane.group[mine], pane.recipients[mine], "messages"),  # of the last 10 s
                },
                offsets=samples(pane, mine),
            )


def is_marketing(key: GroupKey, registry: Registry, at_ms: int) -> bool | None:
    """By the filings of its name where it stands, else by the lease. What may be something else as well is none."""
    lease = registry.lease(key.access_port, at_ms)
    filed = {filing.purpose for filing in authorising(key, lease, registry, at_ms)} - {None}
    purposes = filed or set(lease.purposes if lease else ())
    return True if purposes == {"marketing"} else None
