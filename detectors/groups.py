"""Who sends what under which name: the interning table behind every count.

A *group* is one combination of port, extension, signature, account and carrier. A row costs one dictionary look-up;
names, registry look-ups and texts are touched only when a group is seen for the first time. Both tables have ceilings;
what does not fit is counted under code 0, the overflow, and never crashes or hides.
"""

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from detectors.batch import Codes, Flags, Ints, SubmitBatch
from detectors.ceilings import Ceiling
from detectors.registry import Registry
from detectors.signature.extract import Form, extract_column
from detectors.signature.masking import masked

OVERFLOW = 0
BLOCK = 1024
"""Codes whose changes are told together."""

_UNLEASED_SHARE = 4
"""Ports that nobody leased may take this part of a table: it costs nothing to invent them."""
_PORT_SHARE = 8
"""And the groups of one port this one: it costs nothing to invent extensions, names and accounts either."""


class GroupKey(NamedTuple):
    access_port: str
    extension: str | None
    signature: str | None  # as a handset shows it; None when there is none or the text can't be judged
    form: int  # detectors.signature.extract.Form
    account: str | None
    carrier: str | None


class Gone(NamedTuple):
    """Codes to be forgotten, ascending. A port goes with all its groups."""

    groups: Codes
    ports: Codes


_NOBODY = GroupKey("", None, None, Form.UNJUDGED, None, None)


class _Table(dict[tuple[object, ...], int]):
    """key -> code. The dict's own miss hook keeps the path of known keys in C; `groups` answers for the others."""

    __slots__ = ("groups",)
    groups: "Groups"

    def __missing__(self, key: tuple[object, ...]) -> int:
        return self.groups.admit(GroupKey(*key))  # type: ignore[arg-type]  # the keys are made by `intern`


@dataclass(eq=False)
class Groups:
    """Groups and ports of one partition. Codes start at 1 and belong to one name until it is forgotten; then the
    lowest free one is used first. 0 is the overflow.

    Shapes: `keys`, `samples` have one entry per group code, `ports` one per port code, free ones included; the arrays
    are over-allocated, [>= len(keys)] by group code and [>= len(ports)] by port code, and zero where a code is free.

    `touched` has the blocks of BLOCK group codes whose keys or samples have changed since its reader last emptied it,
    `touched_ports` those of port codes.
    """

    group_limit: int = (3 << 17) - 1
    port_limit: int = (1 << 17) - 1  # with the overflow a power of two: arrays by port code double
    keys: list[GroupKey] = field(default_factory=lambda: [_NOBODY])
    samples: list[str] = field(default_factory=lambda: [""])  # masked start of the first text of the group
    ports: list[str] = field(default_factory=lambda: [""])
    port_of: Codes = field(default_factory=lambda: np.zeros(1024, np.int32))
    since_ms: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))  # of groups: event time of the first row
    last_ms: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))  # the same, or start of the last pane
    port_since_ms: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))
    port_last_ms: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))
    leased: Flags = field(default_factory=lambda: np.zeros(1024, np.bool_))  # ports in the registry, or vouched for
    vouched: dict[str, None] = field(default_factory=dict)  # ports to come whose history is known
    turned_away: dict[str, int] = field(default_factory=dict)  # ceiling -> rows that fell to code 0

    def __post_init__(self) -> None:
        # Derived, so not fields: a checkpoint holds the names once and the tables are made anew from them.
        self._codes = _Table((key, code) for code, key in enumerate(self.keys) if key.access_port)
        self._codes.groups = self
        self._port_codes = {port: code for code, port in enumerate(self.ports) if port}
        self._free = _free(key.access_port for key in self.keys)
        self._free_ports = _free(self.ports)
        self._fresh: list[int] = []
        self._registry = Registry()
        self._unleased_limits = self.unleased_limits(self._registry)
        self._groups_on: Ints
        self._count()
        self.touched: set[int] = set()
        self.touched_ports: set[int] = set()

    @property
    def overflowed(self) -> int:
        """Rows that fell to code 0."""
        return sum(self.turned_away.values())

    @property
    def in_use(self) -> Flags:
        """[len(keys)]: codes that belong to a group."""
        used: Flags = self.port_of[: len(self.keys)] != OVERFLOW
        return used

    @property
    def ports_in_use(self) -> Flags:
        """[len(ports)]"""
        used: Flags = self.port_since_ms[: len(self.ports)] > 0
        return used

    def intern(self, batch: SubmitBatch, registry: Registry) -> Codes:
        """The group code of every row, int32[n]; unknown groups get theirs in row order."""
        self._registry, self._unleased_limits = registry, self.unleased_limits(registry)
        names, forms = extract_column(batch.text)
        rows = zip(batch.access_port, batch.extension, names, forms, batch.account, batch.carrier, strict=True)
        codes = np.fromiter(map(self._codes.__getitem__, rows), np.int32, len(batch))
        if self._fresh:
            self._describe(batch, codes)
        return codes

    def admit(self, key: GroupKey) -> int:
        """A code for a group that has none; OVERFLOW, and counted, when a ceiling is reached."""
        port = self._port_codes.get(key.access_port, OVERFLOW)
        leased = bool(self.leased[port]) if port else self._is_leased(key.access_port)
        if full := self._ceiling_reached(port, leased=leased):
            self.turned_away[full] = self.turned_away.get(full, 0) + 1
            return OVERFLOW
        if not port:
            port = self._add_port(key.access_port, leased=leased)
        code = heappop(self._free) if self._free else len(self.keys)
        if code == len(self.keys):
            self.keys.append(key)
            self.samples.append("")
            if code == len(self.port_of):
                self._reserve()
        self.keys[code] = key
        self._codes[key] = code
        self.port_of[code] = port
        self._groups_on[port] += 1
        self._unleased_groups += not leased
        self._fresh.append(code)
        self.touched.add(code // BLOCK)
        return code

    def port_code(self, access_port: str) -> int:
        """The code of a port; OVERFLOW if it has none."""
        return self._port_codes.get(access_port, OVERFLOW)

    def vouch(self, ports: Iterable[str]) -> None:
        """These ports, met or to come, have a history: they stand as if they were leased."""
        for port in ports:
            if code := self.port_code(port):
                self.leased[code] = True
            else:
                self.vouched[port] = None
        self._count()

    def note(self, groups: Codes, start_ms: int) -> None:
        """These groups have sent in the pane from start_ms on."""
        self.last_ms[groups] = np.maximum(self.last_ms[groups], start_ms)
        ports = self.port_of[groups]
        self.port_last_ms[ports] = np.maximum(self.port_last_ms[ports], start_ms)

    def know(self, registry: Registry) -> None:
        """Ports that have come into the registry since they were met are leased from now on."""
        for code in np.flatnonzero(self.ports_in_use & ~self.leased[: len(self.ports)]).tolist():
            self.leased[code] = registry.is_leased(self.ports[code])
        self._count()

    def successor(self) -> "Groups":
        """The same table to go on with. This one stays as panes that were closed before read it."""
        return copy(self)

    def forget(self, gone: Gone) -> None:
        """Free some codes. What a predecessor reads is not touched: names are written to lists of our own."""
        self.keys, self.samples, self.ports = self.keys.copy(), self.samples.copy(), self.ports.copy()
        self.port_of = self.port_of.copy()
        self._codes.groups = self
        for code in gone.groups.tolist():
            del self._codes[self.keys[code]]
            self.keys[code], self.samples[code] = _NOBODY, ""
            heappush(self._free, code)
            self.touched.add(code // BLOCK)
        for code in gone.ports.tolist():
            del self._port_codes[self.ports[code]]
            self.ports[code] = ""
            heappush(self._free_ports, code)
            self.touched_ports.add(code // BLOCK)
        self.port_of[gone.groups] = OVERFLOW
        self.since_ms[gone.groups] = self.last_ms[gone.groups] = 0
        self.port_since_ms[gone.ports] = self.port_last_ms[gone.ports] = 0
        self.leased[gone.ports] = False
        self._count()

    def unleased_limits(self, registry: Registry) -> tuple[int, int]:
        """Ports that nobody leased, and groups on them, that there may be. Where no registry is loaded nobody has
        leased anything, and that says nothing.
        """
        if registry.is_empty:
            return self.port_limit, self.group_limit
        return max(1, self.port_limit // _UNLEASED_SHARE), max(1, self.group_limit // _UNLEASED_SHARE)

    @property
    def port_group_limit(self) -> int:
        """Groups that one port may have."""
        return max(1, self.group_limit // _PORT_SHARE)

    def ceilings(self) -> Mapping[str, Ceiling]:
        unleased_ports, unleased_groups = self._unleased_limits
        held = {
            "ports": (len(self._port_codes), self.port_limit),
            "unleased_ports": (self._unleased_ports, unleased_ports),
            "groups": (len(self._codes), self.group_limit),
            "unleased_groups": (self._unleased_groups, unleased_groups),
            "groups_of_one_port": (int(self._groups_on.max()), self.port_group_limit),
        }
        return {name: Ceiling(*table, self.turned_away.get(name, 0)) for name, table in held.items()}

    def _is_leased(self, access_port: str) -> bool:
        return access_port in self.vouched or self._registry.is_leased(access_port)

    def _ceiling_reached(self, port: int, *, leased: bool) -> str | None:
        """The name of the ceiling that leaves no room for one more group, on a new port if `port` is OVERFLOW."""
        unleased_ports, unleased_groups = self._unleased_limits
        if not port and len(self._port_codes) >= self.port_limit:
            return "ports"
        if not port and not leased and self._unleased_ports >= unleased_ports:
            return "unleased_ports"
        if len(self._codes) >= self.group_limit:
            return "groups"
        if not leased and self._unleased_groups >= unleased_groups:
            return "unleased_groups"
        if port and self._groups_on[port] >= self.port_group_limit:
            return "groups_of_one_port"
        return None

    def _add_port(self, access_port: str, *, leased: bool) -> int:
        code = heappop(self._free_ports) if self._free_ports else len(self.ports)
        if code == len(self.ports):
            self.ports.append(access_port)
            if code == len(self.leased):
                self._reserve()
        self.ports[code] = access_port
        self._port_codes[access_port] = code
        self.leased[code] = leased
        self._unleased_ports += not leased
        self.vouched.pop(access_port, None)
        self.touched_ports.add(code // BLOCK)
        return code

    def _describe(self, batch: SubmitBatch, codes: Codes) -> None:
        """What the first rows of fresh groups say of them."""
        is_fresh = np.zeros(len(self.keys), np.bool_)
        is_fresh[self._fresh] = True
        self._fresh.clear()
        later = np.flatnonzero(is_fresh[codes])
        fresh, first = np.unique(codes[later], return_index=True)
        rows: Ints = later[first]
        for row, code in zip(rows.tolist(), fresh.tolist(), strict=True):
            if text := batch.text[row]:
                group = self.keys[code]
                self.samples[code] = masked(text, group.signature, Form(group.form))
        self.since_ms[fresh] = self.last_ms[fresh] = batch.event_time_ms[rows]
        by_row = np.argsort(rows)[::-1]  # of several assignments to one place the last stays: the earliest row
        ports, times = self.port_of[fresh[by_row]], batch.event_time_ms[rows[by_row]]
        new = self.port_since_ms[ports] == 0
        self.port_since_ms[ports[new]] = self.port_last_ms[ports[new]] = times[new]

    def _reserve(self) -> None:
        keys, ports = len(self.keys), len(self.ports)
        self.port_of = grown(self.port_of, keys)
        self.since_ms, self.last_ms = grown(self.since_ms, keys), grown(self.last_ms, keys)
        self.port_since_ms, self.port_last_ms = grown(self.port_since_ms, ports), grown(self.port_last_ms, ports)
        self.leased, self._groups_on = grown(self.leased, ports), grown(self._groups_on, ports)

    def _count(self) -> None:
        """How full the parts of the tables are."""
        used, unleased = self.port_of[: len(self.keys)][self.in_use], ~self.leased[: len(self.ports)]
        self._groups_on = grown(np.bincount(used, minlength=len(self.leased)), len(self.leased))
        self._unleased_groups = int(unleased[used].sum())
        self._unleased_ports = int((self.ports_in_use & unleased).sum())


_Scalar = TypeVar("_Scalar", bound=np.generic)


def grown(column: npt.NDArray[_Scalar], size: int) -> npt.NDArray[_Scalar]:
    """The column with room for `size` entries, zeros at its end; by doubling."""
    if size <= len(column):
        return column
    room = np.zeros(max(size, 2 * len(column)) - len(column), column.dtype)
    return np.concatenate([column, room])


def _free(names: Iterable[str]) -> list[int]:
    """A heap of the codes that belong to nobody."""
    free = [code for code, name in enumerate(names) if code != OVERFLOW and not name]
    heapify(free)
    return free
