"""Rule `dormant-wakes`: does a port send again that was silent for a month? An early sign that it has been sold on.

A silence is claimed only as far as somebody watched it: we ourselves, without a hole, or the registry, whose filings
say when they had traffic last. The registry watches until the newest traffic that it tells of, for a copy that is a
year old knows nothing of this year. A port that was never known to send is new, not dormant.

Ports are forgotten after five idle weeks. When they were last seen is kept apart, by name, for those that are leased.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from detectors.batch import Codes, Ints
from detectors.ceilings import Ceiling
from detectors.contract import Finding, Pane, Severity
from detectors.event_time import DAY_MS
from detectors.groups import Gone, Groups, grown
from detectors.registry import Registry
from detectors.senders import by_port, samples, sending, top_senders
from detectors.volume.dormancy_wording import Silence, Wake, evidence, ruled_out, summary

DORMANT_MS = 30 * DAY_MS
AWAKE_MS = DAY_MS
"""So long is told what a port sends that woke up, and so long may it pause without waking up again."""

_GAP_MS = 3 * DAY_MS
"""A partition that brought nothing for longer was not watched meanwhile; a weekend of offices is less."""


def _column() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(slots=True, eq=False)
class DormancyState:
    """`last_ms`: int64[>= number of ports], by port code; 0 where nobody was seen to send."""

    watched_since_ms: int = 0  # without a gap; 0 = not yet
    pane_ms: int = 0
    last_ms: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    wakes: dict[int, Wake] = field(default_factory=dict)  # of port codes, until the next forgetting after a day
    asleep: dict[str, int] = field(default_factory=dict)  # forgotten port -> when it sent last; first forgotten first
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class DormancyDetector:
    name: str = "dormancy"
    warning_messages: int = 200
    """To people, within a day: a port that was sold on was bought for bulk. A choice; no labelled case is public."""
    asleep_limit: int = 1 << 14
    """Leased ports that nobody used for five weeks; the one forgotten first makes room for one more."""

    def start(self) -> DormancyState:
        return DormancyState()

    def step(self, state: DormancyState, pane: Pane, registry: Registry) -> list[Finding]:
        groups, now_ms = pane.groups, pane.start_ms
        state.last_ms = grown(state.last_ms, len(groups.ports))
        if not state.pane_ms or now_ms - state.pane_ms > _GAP_MS:
            state.watched_since_ms = now_ms
        state.pane_ms = now_ms
        sent = sending(groups.port_of[pane.group], len(state.last_ms))
        for port in np.flatnonzero(sent & (state.last_ms <= now_ms - DORMANT_MS)).tolist():
            self._wake(state, port, groups.ports[port], now_ms, registry)
        np.copyto(state.last_ms, now_ms, where=sent)
        awake = sorted(port for port, wake in state.wakes.items() if sent[port] and wake.woken_ms > now_ms - AWAKE_MS)
        return list(self._findings(state, pane, np.array(awake, np.int32), registry)) if awake else []

    def forget(self, state: DormancyState, gone: Gone, groups: Groups, at_ms: int) -> None:
        over = [port for port, wake in state.wakes.items() if wake.woken_ms <= at_ms - AWAKE_MS]
        for port in over:
            del state.wakes[port]
        for port in gone.ports[gone.ports < len(state.last_ms)].tolist():
            state.wakes.pop(port, None)
            if state.last_ms[port] and groups.leased[port]:
                state.asleep[groups.ports[port]] = int(state.last_ms[port])
            state.last_ms[port] = 0
        while len(state.asleep) > self.asleep_limit:
            del state.asleep[next(iter(state.asleep))]
            state.dropped += 1

    def ceilings(self, state: DormancyState) -> Mapping[str, Ceiling]:
        return {"ports_asleep": Ceiling(len(state.asleep), self.asleep_limit, state.dropped)}

    def _wake(self, state: DormancyState, port: int, name: str, now_ms: int, registry: Registry) -> None:
        """A port sends that has not for long, or was never seen: has it been dormant?"""
        own_ms = int(state.last_ms[port]) or state.asleep.pop(name, 0)
        silence = _silence(name, own_ms, state.watched_since_ms, now_ms, registry)
        if silence and silence.proven_ms >= DORMANT_MS:
            state.wakes[port] = Wake(now_ms, silence)

    def _findings(self, state: DormancyState, pane: Pane, ports: Codes, registry: Registry) -> Iterator[Finding]:
        for port, rows in by_port(pane.groups.port_of[pane.group], ports):
            wake, name = state.wakes[port], pane.groups.ports[port]
            wake.messages += int(pane.recipients[rows].sum())
            lease = registry.lease(name, pane.start_ms)
            yield Finding(
                rule="dormant-wakes",
                severity=Severity.WARNING if wake.messages >= self.warning_messages else Severity.INFO,
                at_ms=pane.start_ms,
                access_port=name,
                lessee_id=lease.lessee_id if lease else None,
                size=float(max(wake.messages, 1)),
                summary=summary(wake),
                evidence={
                    **evidence(wake),
                    "watched_since_ms": state.watched_since_ms,
                    **top_senders(pane.groups, pane.group[rows], pane.recipients[rows], "messages"),  # of the last 10 s
                },
                ruled_out=ruled_out(wake),
                offsets=samples(pane, rows),
            )


def _silence(name: str, own_ms: int, watched_since_ms: int, now_ms: int, registry: Registry) -> Silence | None:
    """What is proven of the silence of a port until now; `own_ms` is when we saw it last, 0 if never.

    None if nobody ever knew it to send.
    """
    told = [filing.last_traffic for filing in registry.filings_of_port(name, now_ms)]
    known = [at_ms for at_ms in told if at_ms is not None and at_ms <= now_ms]
    last_ms = max([own_ms, *known])
    if not last_ms:
        return None
    watched = Silence(last_ms, now_ms - max(last_ms, watched_since_ms), "watched")
    if len(known) < len(told) or last_ms not in known:
        return watched  # the registry does not know of all of them, or we know better
    until_ms = registry.traffic_known_until(now_ms)
    filed = Silence(last_ms, (now_ms if until_ms >= watched_since_ms else until_ms) - last_ms, "filed")
    return max(watched, filed, key=lambda silence: silence.proven_ms)
