"""Rules `cap-minute` and `cap-day`: does a port carry more than its contract allows, whatever is usual for it?

What is counted are carried segments (条): recipients times segments of unique submits, retries left out. It is what
carriers bill, and the only number that a long text makes the same on every path: one submit of three segments, or three
submits of one part each. T-Mobile's daily limits of 10DLC count segments as well (support.twilio.com, 1260804800549).

All ports are counted, so a cap that comes or changes within the day is judged by the whole day from then on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np

from detectors.batch import Codes, Flags, Ints
from detectors.ceilings import Ceiling
from detectors.contract import Finding, Pane, Severity
from detectors.event_time import midnight
from detectors.groups import OVERFLOW, Gone, Groups, grown
from detectors.registry import Registry
from detectors.senders import by_port, samples, top_senders
from detectors.terms import UNCAPPED, Terms
from detectors.volume.caps_wording import Breach, ruled_out, summary

_MINUTE_MS = 60_000
_NOBODY = np.zeros(0, np.int32)


def _column() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(slots=True, eq=False)
class Sent:
    """What the groups of one pane carried whose ports have a cap for the minute. Shapes: [g]."""

    start_ms: int
    group: Codes
    segments: Ints


@dataclass(eq=False)
class CapsState:
    """Segments carried since midnight in Shanghai. Shapes: [>= number of ports] by port code, [>= number of groups] by
    group code; times are 0 where the cap is kept.
    """

    day_ms: int = 0  # when the day began; 0 = nothing counted yet
    counted_since_ms: int = 0  # later than that when we came during the day
    carried: Ints = field(default_factory=_column)  # [p]
    carried_by: Ints = field(default_factory=_column)  # [g]
    day_since_ms: Ints = field(default_factory=_column)  # [p]
    minute_since_ms: Ints = field(default_factory=_column)  # [p]
    minute_last_ms: Ints = field(default_factory=_column)  # [p]
    minute: list[Sent] = field(default_factory=list)  # at most six panes

    def __post_init__(self) -> None:
        self._terms = Terms()  # derived, so not a field: a checkpoint leaves it out

    @property
    def terms(self) -> Terms:
        return self._terms

    def reserve(self, groups: Groups) -> None:
        for f in fields(self):
            if isinstance(column := getattr(self, f.name), np.ndarray):
                size = len(groups.keys if f.name == "carried_by" else groups.ports)
                setattr(self, f.name, grown(column, size))


class Over(NamedTuple):
    """The ports above one kind of cap, and what their groups (and maybe others) carried. Columns are by port code."""

    ports: Codes
    observed: Ints
    caps: Ints
    since_ms: Ints
    codes: Codes  # groups
    by_group: Ints  # of each of them


@dataclass(frozen=True, slots=True)
class CapsDetector:
    """Settings; all are choices."""

    name: str = "caps"
    slack_factor: float = 1.1
    """Info up to here: the gateway's count and ours may differ by what was late, refused, or sent again."""
    critical_factor: float = 2.0

    def start(self) -> CapsState:
        return CapsState()

    def step(self, state: CapsState, pane: Pane, registry: Registry) -> list[Finding]:
        rows = np.flatnonzero((pane.group != OVERFLOW) & (pane.segments > 0))
        ports = pane.groups.port_of[pane.group[rows]]
        self._count(state, pane, rows, ports)
        sending = np.unique(ports)
        state.terms.ask(sending, pane.groups, registry, pane.start_ms)
        over_minute = self._over_the_minute(state, pane, rows, ports)
        over_day = self._over_the_day(state, pane, sending)
        return [
            *self._findings("cap-minute", over_minute, state, pane, registry),
            *self._findings("cap-day", over_day, state, pane, registry),
        ]

    def forget(self, state: CapsState, gone: Gone, groups: Groups, at_ms: int) -> None:  # noqa: ARG002 - the protocol's
        state.terms.forget(gone.ports)
        state.carried_by[gone.groups[gone.groups < len(state.carried_by)]] = 0
        ports = gone.ports[gone.ports < len(state.carried)]
        for column in (state.carried, state.day_since_ms, state.minute_since_ms, state.minute_last_ms):
            column[ports] = 0
        for sent in state.minute:
            kept = ~np.isin(sent.group, gone.groups)
            sent.group, sent.segments = sent.group[kept], sent.segments[kept]

    def ceilings(self, state: CapsState) -> Mapping[str, Ceiling]:  # noqa: ARG002 - as above; its columns are those of `Groups`
        return {}

    def _count(self, state: CapsState, pane: Pane, rows: Ints, ports: Codes) -> None:
        state.reserve(pane.groups)
        today_ms = midnight(pane.start_ms)
        if today_ms != state.day_ms:
            state.counted_since_ms = today_ms if state.day_ms else pane.start_ms
            state.day_ms = today_ms
            state.carried[:] = state.carried_by[:] = state.day_since_ms[:] = 0
        state.carried_by[pane.group[rows]] += pane.segments[rows]
        state.carried += _sums(ports, pane.segments[rows], len(state.carried))

    def _over_the_minute(self, state: CapsState, pane: Pane, rows: Ints, ports: Codes) -> Over:
        """In the six panes that end with this one, of ports that send in it."""
        begins_ms = pane.end_ms - _MINUTE_MS
        capped = state.terms.per_minute[ports] < UNCAPPED
        state.minute = [sent for sent in state.minute if sent.start_ms >= begins_ms]
        if capped.any():
            state.minute.append(Sent(pane.start_ms, pane.group[rows[capped]], pane.segments[rows[capped]]))
        groups = np.concatenate([_NOBODY, *(sent.group for sent in state.minute)])
        segments = np.concatenate([_column(), *(sent.segments for sent in state.minute)])
        codes, place = np.unique(groups, return_inverse=True)
        by_group = _sums(place, segments, len(codes))
        carried = _sums(pane.groups.port_of[codes], by_group, len(state.carried))
        sending = np.unique(ports[capped])
        over = sending[carried[sending] > state.terms.per_minute[sending]]
        state.minute_since_ms[over[state.minute_last_ms[over] < begins_ms]] = pane.start_ms
        state.minute_last_ms[over] = pane.start_ms
        return Over(over, carried, state.terms.per_minute, state.minute_since_ms, codes, by_group)

    def _over_the_day(self, state: CapsState, pane: Pane, sending: Codes) -> Over:
        is_over: Flags = state.carried[sending] > state.terms.per_day[sending]
        state.day_since_ms[sending[~is_over]] = 0  # the cap was raised, or there is none any more
        over = sending[is_over]
        state.day_since_ms[over[state.day_since_ms[over] == 0]] = pane.start_ms
        codes = _groups_of(over, pane.groups)
        return Over(over, state.carried, state.terms.per_day, state.day_since_ms, codes, state.carried_by[codes])

    def _findings(self, rule: str, over: Over, state: CapsState, pane: Pane, registry: Registry) -> Iterator[Finding]:
        if not len(over.ports):
            return
        in_pane = dict(by_port(pane.groups.port_of[pane.group], over.ports))
        for port, places in by_port(pane.groups.port_of[over.codes], over.ports):
            breach = Breach(
                observed=int(over.observed[port]),
                cap=int(over.caps[port]),
                since_ms=int(over.since_ms[port]),
                of_day=int(state.carried[port]),
                day_ms=state.day_ms,
                counted_since_ms=state.counted_since_ms,
                now_ms=pane.end_ms,
            )
            lease = registry.lease(pane.groups.ports[port], pane.start_ms)
            senders = top_senders(pane.groups, over.codes[places], over.by_group[places], "segments")
            retries = int(pane.retries[in_pane[port]].sum())
            yield Finding(
                rule=rule,
                severity=self._severity(breach),
                at_ms=pane.start_ms,
                access_port=pane.groups.ports[port],
                lessee_id=lease.lessee_id if lease else None,
                size=breach.factor,
                summary=summary(rule, breach),
                evidence={**breach.evidence, **senders},
                ruled_out=ruled_out(retries),
                offsets=samples(pane, in_pane[port]),
            )

    def _severity(self, breach: Breach) -> Severity:
        if breach.factor >= self.critical_factor:
            return Severity.CRITICAL
        return Severity.WARNING if breach.factor >= self.slack_factor else Severity.INFO


def _sums(codes: Codes | Ints, segments: Ints, size: int) -> Ints:
    return np.bincount(codes, segments, size).astype(np.int64)


def _groups_of(ports: Codes, groups: Groups) -> Codes:
    is_theirs = np.zeros(len(groups.ports), np.bool_)
    is_theirs[ports] = True
    codes = np.flatnonzero(is_theirs[groups.port_of[: len(groups.keys)]]) if len(ports) else _NOBODY
    return codes.astype(np.int32)
