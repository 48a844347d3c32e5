"""The caps and hours of leases as columns by port code, asked once per port and registry snapshot.

Derived data that no checkpoint needs, as `judged` is for groups: it forgets everything when the snapshot changes or a
date in it is reached.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.batch import Codes, Flags, Ints
from detectors.groups import Groups, grown
from detectors.registry import Caps, Registry

UNCAPPED = np.iinfo(np.int64).max
Hours = tuple[int, int]
"""[from, to) of the day in Shanghai; over midnight when from > to."""

_NO_TERMS = Caps()
_HOURS = 24
_ALWAYS = (1 << _HOURS) - 1


def open_hours(hours: Hours) -> int:
    """As bits: bit n is the hour n of the day."""
    opens, closes = hours
    length = (closes - opens) % _HOURS or _HOURS
    return sum(1 << (opens + n) % _HOURS for n in range(length))


def is_open(hours: Hours, hour: int) -> bool:
    return bool(open_hours(hours) >> hour & 1)


@dataclass(slots=True, eq=False)
class Terms:
    """Shapes: [>= number of ports], by port code. What stands where nobody has asked yet says nothing."""

    registry: Registry | None = None
    since_ms: int = 0
    until_ms: int = 0
    asked: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    per_minute: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    per_day: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    open_hours: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))  # as bits

    def ask(self, ports: Codes, groups: Groups, registry: Registry, at_ms: int) -> None:
        """Make the columns true for these ports, which may be told several times, at that moment."""
        self._keep_up(registry, at_ms, len(groups.ports))
        for port in np.unique(ports[~self.asked[ports]]).tolist():
            lease = registry.lease(groups.ports[port], at_ms)
            caps = (lease.caps if lease else None) or _NO_TERMS
            self.per_minute[port] = UNCAPPED if caps.per_minute is None else caps.per_minute
            self.per_day[port] = UNCAPPED if caps.per_day is None else caps.per_day
            self.open_hours[port] = open_hours(caps.hours) if caps.hours else _ALWAYS
            self.asked[port] = True

    def is_closed(self, ports: Codes, hour: int) -> Flags:
        """[ports]: do the hours of the lease leave that hour of the day out?"""
        closed: Flags = self.open_hours[ports] & np.uint32(1 << hour) == 0
        return closed

    def forget(self, ports: Codes) -> None:
        """These codes will belong to other ports."""
        self.asked[ports[ports < len(self.asked)]] = False

    def _keep_up(self, registry: Registry, at_ms: int, size: int) -> None:
        if registry is not self.registry or not self.since_ms <= at_ms < self.until_ms:
            self.registry, self.since_ms, self.until_ms = registry, at_ms, registry.unchanged_until(at_ms)
            self.asked[:] = False
        self.asked = grown(self.asked, size)
        self.per_minute, self.per_day = grown(self.per_minute, size), grown(self.per_day, size)
        self.open_hours = grown(self.open_hours, size)
