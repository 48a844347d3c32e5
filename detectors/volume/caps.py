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
from detectors.groups import Gone, Groups, grown
from detectors.registry import Registry
from detectors.senders import by_port, samples, sending, top_senders
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
    minute_carried: Ints = field(default_factory=_column)  # [p] within the minute, of ports with a cap for it
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
        ports = pane.groups.port_of[pane.group]  # the overflow is on a port without a name, which nobody leased
        state.reserve(pane.groups)
        state.terms.ask(ports, pane.groups, registry, pane.start_ms)
        self._turn(state, pane.start_ms)
        counts = _sums(ports, pane.segments, len(state.carried))
        state.carried += counts
        state.carried_by[pane.group] += pane.segments
        sends = counts > 0
        return [
            *self._findings("cap-minute", self._over_the_minute(state, pane, ports, sends), state, pane, registry),
            *self._findings("cap-day", self._over_the_day(state, pane, sends), state, pane, registry),
        ]

    def forget(self, state: CapsState, gone: Gone, groups: Groups, at_ms: int) -> None:  # noqa: ARG002 - the protocol's
        state.terms.forget(gone.ports)
        state.carried_by[gone.groups[gone.groups < len(state.carried_by)]] = 0
        ports = gone.ports[gone.ports < len(state.carried)]
        for column in (state.carried, state.day_since_ms, state.minute_since_ms, state.minute_last_ms):
            column[ports] = 0
        for sent in state.minute:
            goes = np.isin(sent.group, gone.groups)
            self._take_back(state, groups, sent.group[goes], sent.segments[goes])
            sent.group, sent.segments = sent.group[~goes], sent.segments[~goes]

    def ceilings(self, state: CapsState) -> Mapping[str, Ceiling]:  # noqa: ARG002 - as above; its columns are those of `Groups`
        return {}

    def _turn(self, state: CapsState, start_ms: int) -> None:
        """Begin the day, if it is another one."""
        day_ms = midnight(start_ms)
        if day_ms != state.day_ms:
            state.counted_since_ms = day_ms if state.day_ms else start_ms
            state.day_ms = day_ms
            state.carried[:] = state.carried_by[:] = state.day_since_ms[:] = 0

    def _over_the_minute(self, state: CapsState, pane: Pane, ports: Codes, sends: Flags) -> Over:
        """In the six panes that end with this one."""
        begins_ms, n = pane.end_ms - _MINUTE_MS, len(pane.groups.ports)
        for sent in state.minute:
            if sent.start_ms < begins_ms:
                self._take_back(state, pane.groups, sent.group, sent.segments)
        state.minute = [sent for sent in state.minute if sent.start_ms >= begins_ms]
        rows = np.flatnonzero(state.terms.per_minute[ports] < UNCAPPED)
        if len(rows):
            sent = Sent(pane.start_ms, pane.group[rows], pane.segments[rows])
            state.minute.append(sent)
            state.minute_carried += _sums(ports[rows], sent.segments, len(state.minute_carried))
        is_over = sends[:n] & (state.minute_carried[:n] > state.terms.per_minute[:n])
        over = np.flatnonzero(is_over).astype(np.int32)
        state.minute_since_ms[over[state.minute_last_ms[over] < begins_ms]] = pane.start_ms
        state.minute_last_ms[over] = pane.start_ms
        codes, by_group = _minute_of(over, state.minute, pane.groups)
        return Over(over, state.minute_carried, state.terms.per_minute, state.minute_since_ms, codes, by_group)

    def _take_back(self, state: CapsState, groups: Groups, codes: Codes, segments: Ints) -> None:
        state.minute_carried -= _sums(groups.port_of[codes], segments, len(state.minute_carried))

    def _over_the_day(self, state: CapsState, pane: Pane, sends: Flags) -> Over:
        n = len(pane.groups.ports)
        is_over = sends[:n] & (state.carried[:n] > state.terms.per_day[:n])
        kept = sends[:n] & ~is_over & (state.day_since_ms[:n] > 0)
        state.day_since_ms[:n][kept] = 0  # the cap was raised, or there is none any more
        over = np.flatnonzero(is_over).astype(np.int32)
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
    if not len(ports):
        return _NOBODY
    theirs = np.flatnonzero(sending(ports, len(groups.ports))[groups.port_of[: len(groups.keys)]])
    return theirs.astype(np.int32)


def _minute_of(ports: Codes, minute: list[Sent], groups: Groups) -> tuple[Codes, Ints]:
    """What the groups of these ports carried in it: codes, segments."""
    codes = _groups_of(ports, groups)
    by_group = np.zeros(len(codes), np.int64)
    for sent in minute if len(codes) else ():
        mine = np.isin(sent.group, codes)
        by_group[np.searchsorted(codes, sent.group[mine])] += sent.segments[mine]
    return codes, by_group
