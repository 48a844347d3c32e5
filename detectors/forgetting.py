"""Which groups and ports need not be remembered any longer?

Without need only what has been idle for so long that nothing is lost. When a table is three quarters full, what has no
history goes first, the longest idle first, until half of it is free: whoever invents names crowds out such names, never
a lease or a port with a day of history.
"""

from dataclasses import dataclass

import numpy as np

from detectors.batch import Codes, Flags, Ints
from detectors.event_time import DAY_MS, HOUR_MS
from detectors.groups import OVERFLOW, Gone, Groups
from detectors.registry import Registry

FORGET_MS = 300_000
"""Event time at whose multiples is forgotten: the tick of the volume detector, seldom enough to cost nothing."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is idle is remembered, in event time."""

    group_ms: int = 7 * DAY_MS
    """No rule looks back further at a name than a day; a week, so that what is sent weekly keeps its place."""
    port_ms: int = 35 * DAY_MS
    """A profile is learnt over four weeks and a level fades in one: older than that it says nothing."""
    newcomer_ms: int = 20 * HOUR_MS
    """Ports that nobody leased, without a day of history: less than a day, or silence would pass for one; and more
    than a night, so that office hours make one."""
    spared_ms: int = HOUR_MS
    """What has sent within it is not forgotten, however full the tables: so far do the offences look back."""
    history_ms: int = DAY_MS
    """A name in use for so long has a history (contract: cold start)."""

    def gone(self, groups: Groups, held: Codes, registry: Registry, now_ms: int) -> Gone:
        """What goes at a moment; `held` are the groups that open panes count."""
        ports = self._ports(groups, held, registry, now_ms)
        names = self._groups(groups, held, ports, registry, now_ms)
        return Gone(*(np.flatnonzero(codes).astype(np.int32) for codes in (names, ports)))

    def _ports(self, groups: Groups, held: Codes, registry: Registry, now_ms: int) -> Flags:
        n, used = len(groups.ports), groups.ports_in_use
        since_ms, last_ms = groups.port_since_ms[:n], groups.port_last_ms[:n]
        idle_ms, unleased = now_ms - last_ms, used & ~groups.leased[:n]
        newcomer = unleased & (last_ms - since_ms < self.history_ms)
        free = used.copy()
        free[groups.port_of[held]] = False
        gone: Flags = free & ((idle_ms >= self.port_ms) | (newcomer & (idle_ms >= self.newcomer_ms)))
        candidates = free & newcomer & (idle_ms >= self.spared_ms)
        for pool, limit in ((unleased, groups.unleased_limits(registry)[0]), (used, groups.port_limit)):
            _relieve(gone, pool, limit, candidates, last_ms)
        return gone

    def _groups(self, groups: Groups, held: Codes, ports: Flags, registry: Registry, now_ms: int) -> Flags:
        n, used = len(groups.keys), groups.in_use
        port_of, since_ms, last_ms = groups.port_of[:n], groups.since_ms[:n], groups.last_ms[:n]
        idle_ms, newcomer = now_ms - last_ms, last_ms - since_ms < self.history_ms
        free = used.copy()
        free[held] = False
        gone: Flags = used & (ports[port_of] | (free & (idle_ms >= self.group_ms)))
        candidates = free & newcomer & (idle_ms >= self.spared_ms)
        for port in _crowded(port_of, groups.port_group_limit):
            _relieve(gone, port_of == port, groups.port_group_limit, candidates, last_ms)
        unleased = used & ~groups.leased[port_of]
        for pool, limit in ((unleased, groups.unleased_limits(registry)[1]), (used, groups.group_limit)):
            _relieve(gone, pool, limit, candidates, last_ms)
        return gone


def _pressing(limit: int) -> int:
    return 3 * limit // 4


def _crowded(port_of: Codes, limit: int) -> list[int]:
    """Ports with nearly as many groups as one may have."""
    held = np.bincount(port_of, minlength=1)
    held[OVERFLOW] = 0
    ports: list[int] = np.flatnonzero(held > _pressing(limit)).tolist()
    return ports


def _relieve(gone: Flags, pool: Flags, limit: int, candidates: Flags, last_ms: Ints) -> None:
    """Mark so many of the candidates that half of the limit is free, in place."""
    held = int((pool & ~gone).sum())
    if held > _pressing(limit):
        codes = np.flatnonzero(candidates & pool & ~gone)
        gone[codes[np.argsort(last_ms[codes], kind="stable")][: held - limit // 2]] = True
