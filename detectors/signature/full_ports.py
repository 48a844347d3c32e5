"""Which names are in use on one full port? One full port may carry one signature (一码一签).

When each group was last seen is state; which groups share a full port follows from the group table, so it is not
persisted.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from detectors.batch import Codes, Flags, Ints
from detectors.contract import Pane
from detectors.groups import GroupKey, Groups, grown
from detectors.registry import Registry
from detectors.signature.extract import Form
from detectors.signature.judge import judge
from detectors.signature.normalise import normalise

FullPort = tuple[str, str | None]  # access port, extension


class Company(NamedTuple):
    """What a group's full port carries besides its own name."""

    others: tuple[str, ...]  # in the order in which they came into use
    is_second: bool  # well filed, and so is a name that was there before
    taking_turns: bool  # that name was used again since: it is no mere change of signature


class _Use(NamedTuple):
    first_ms: int
    since_ms: int  # before any pause
    first_code: int
    last_ms: int
    name: str
    well_filed: bool


def _no_times() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(slots=True, eq=False)
class SharedPorts:
    """The index: the groups of each full port, the oldest first. `shared` marks groups whose full port has several
    names, `known` those that are in the index; both are [>= number of groups], by group code.

    The oldest `group_limit` groups of one full port are looked at; the others are left to the other rules.
    """

    group_limit: int = 64
    shared: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    known: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    members: dict[FullPort, list[int]] = field(default_factory=dict)

    def extend(self, codes: Codes | Ints, groups: Groups) -> None:
        """Take in those of the codes that are new."""
        size = len(groups.keys)
        self.shared, self.known = grown(self.shared, size), grown(self.known, size)
        new = codes[~self.known[codes]]
        self.known[new] = True
        for code in new.tolist():
            if groups.keys[code].form != Form.UNJUDGED:
                self._add(code, groups)

    def among(self, codes: Codes, groups: Groups) -> list[list[int]]:
        """Of each full port of these codes that has several names the groups that are looked at."""
        full_ports = {_full_port(groups.keys[code]) for code in codes[self.shared[codes]].tolist()}
        return [self.members[full_port][: self.group_limit] for full_port in full_ports]

    def forget(self, codes: Codes, groups: Groups) -> None:
        gone = set(codes[self.known[codes]].tolist())
        self.known[list(gone)] = self.shared[list(gone)] = False
        for full_port in {_full_port(groups.keys[code]) for code in gone} & self.members.keys():
            left = [code for code in self.members.pop(full_port) if code not in gone]
            if left:
                self.members[full_port] = left
                self._mark(left, groups)

    def _add(self, code: int, groups: Groups) -> None:
        members = self.members.setdefault(_full_port(groups.keys[code]), [])
        insort(members, code, key=lambda member: (int(groups.since_ms[member]), member))
        self.shared[members[self.group_limit : self.group_limit + 1]] = False
        if code in members[: self.group_limit]:
            self._mark(members, groups)

    def _mark(self, members: list[int], groups: Groups) -> None:
        looked_at = members[: self.group_limit]
        self.shared[looked_at] = len({_folded(groups.keys[code].signature) for code in looked_at}) > 1


@dataclass(eq=False)
class FullPorts:
    """Shapes: `first_ms`, `last_ms` are [>= number of groups], by group code; a group's use without a long pause."""

    first_ms: Ints = field(default_factory=_no_times)
    last_ms: Ints = field(default_factory=_no_times)

    def __post_init__(self) -> None:
        self._index = SharedPorts()  # derived, so not a field: a checkpoint leaves it out

    def note(self, pane: Pane, codes: Codes, pause_ms: int) -> None:
        """These groups sent in this pane; after a pause so long their use begins anew."""
        size = len(pane.groups.keys)
        self.first_ms, self.last_ms = grown(self.first_ms, size), grown(self.last_ms, size)
        anew = codes[self.last_ms[codes] <= pane.start_ms - pause_ms]
        self.first_ms[anew] = pane.start_ms
        self.last_ms[codes] = pane.start_ms
        self._index.extend(codes if len(self._index.known) else np.flatnonzero(self.last_ms), pane.groups)

    def forget(self, codes: Codes, groups: Groups) -> None:
        """These codes will belong to other groups."""
        codes = codes[codes < len(self.last_ms)]
        self.first_ms[codes] = self.last_ms[codes] = 0
        if len(self._index.known):
            self._index.forget(codes, groups)

    def companies(self, pane: Pane, codes: Codes, registry: Registry, span_ms: int) -> dict[int, Company]:
        """Group code -> its company, for those of the codes whose full port used several names within `span_ms`."""
        found: dict[int, Company] = {}
        for members in self._index.among(codes, pane.groups):
            used = [code for code in members if self.last_ms[code] > pane.start_ms - span_ms]
            found.update(self._company(used, pane, registry))
        return found

    def _company(self, used: list[int], pane: Pane, registry: Registry) -> Iterator[tuple[int, Company]]:
        names: dict[int, str] = {}
        uses: dict[str, _Use] = {}
        for code in used:
            found = judge(pane.groups.keys[code], registry, pane.start_ms)
            if found.name:
                names[code] = _folded(found.name)
                use = _Use(*self._times(code, pane.groups), found.name, found.name_rule is None)
                uses[names[code]] = _joined(use, uses.get(names[code]))
        in_order = sorted(uses.values())
        first = next((use for use in in_order if use.well_filed), None)
        if len(uses) <= 1:
            return
        in_this_pane = (item for item in names.items() if self.last_ms[item[0]] == pane.start_ms)
        for code, name in in_this_pane:
            use = uses[name]
            is_second = first is not None and use.well_filed and use is not first
            others = tuple(other.name for other in in_order if other is not use)
            yield code, Company(others, is_second, first is not None and first.last_ms >= use.first_ms)

    def _times(self, code: int, groups: Groups) -> tuple[int, int, int, int]:
        return int(self.first_ms[code]), int(groups.since_ms[code]), code, int(self.last_ms[code])


def _joined(use: _Use, had: _Use | None) -> _Use:
    """The use of one name by several accounts or carriers; filed well by one of them is filed well."""
    if had is None:
        return use
    first = min(had, use)
    return first._replace(last_ms=max(had.last_ms, use.last_ms), well_filed=had.well_filed or use.well_filed)


def _full_port(key: GroupKey) -> FullPort:
    return key.access_port, key.extension


def _folded(name: str | None) -> str:
    return normalise(name or "")
