"""Which names are in use on one full port? One full port may carry one signature (一码一签).

When each group was last seen is state; which groups share a full port follows from the group table, so it is not
persisted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from detectors.batch import Codes, Flags, Ints
from detectors.contract import Pane
from detectors.groups import GroupKey, Groups
from detectors.registry import Registry
from detectors.signature.extract import Form
from detectors.signature.judge import judge
from detectors.signature.normalise import normalise


class Company(NamedTuple):
    """What a group's full port carries besides its own name."""

    others: tuple[str, ...]  # in the order in which they came into use
    is_second: bool  # well filed, and so is a name that was there before
    taking_turns: bool  # that name was used again since: it is no mere change of signature


class _Use(NamedTuple):
    first_ms: int
    first_code: int
    last_ms: int
    name: str
    well_filed: bool


def _no_times() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(slots=True, eq=False)
class SharedPorts:
    """The index. `lead` is the first group of a group's full port, `shared` marks groups whose full port has several
    names; both are [>= number of groups], by group code.

    At most `group_limit` groups of one full port are looked at; what comes later is left to the other rules.
    """

    group_limit: int = 64
    lead: Codes = field(default_factory=lambda: np.zeros(0, np.int32))
    shared: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    members: dict[int, list[int]] = field(default_factory=dict)  # lead -> groups, where there are several
    _known: int = 1
    _leads: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def extend(self, groups: Groups) -> None:
        """Take in the groups that are new in the table."""
        size = len(groups.keys)
        self.lead, self.shared = _grown(self.lead, size), _grown(self.shared, size)
        for code in range(self._known, size):
            if groups.keys[code].form != Form.UNJUDGED:
                self._add(code, groups.keys)
        self._known = size

    def _add(self, code: int, keys: list[GroupKey]) -> None:
        lead = self._leads.setdefault((keys[code].access_port, keys[code].extension), code)
        self.lead[code] = lead
        if lead == code:
            return
        members = self.members.setdefault(lead, [lead])
        if len(members) >= self.group_limit:
            return
        members.append(code)
        if self.shared[lead] or _folded(keys[code].signature) != _folded(keys[lead].signature):
            self.shared[members] = True


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
        self.first_ms, self.last_ms = _grown(self.first_ms, size), _grown(self.last_ms, size)
        anew = codes[self.last_ms[codes] <= pane.start_ms - pause_ms]
        self.first_ms[anew] = pane.start_ms
        self.last_ms[codes] = pane.start_ms
        self._index.extend(pane.groups)

    def companies(self, pane: Pane, codes: Codes, registry: Registry, span_ms: int) -> dict[int, Company]:
        """Group code -> its company, for those of the codes whose full port used several names within `span_ms`."""
        leads = self._index.lead[codes[self._index.shared[codes]]]
        found: dict[int, Company] = {}
        for lead in np.unique(leads).tolist():
            used = [code for code in self._index.members[lead] if self.last_ms[code] > pane.start_ms - span_ms]
            found.update(self._company(used, pane, registry))
        return found

    def _company(self, used: list[int], pane: Pane, registry: Registry) -> Iterator[tuple[int, Company]]:
        names: dict[int, str] = {}
        uses: dict[str, _Use] = {}
        for code in used:
            found = judge(pane.groups.keys[code], registry, pane.start_ms)
            if found.name:
                names[code] = _folded(found.name)
                use = _Use(*self._times(code), found.name, found.name_rule is None)
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

    def _times(self, code: int) -> tuple[int, int, int]:
        return int(self.first_ms[code]), code, int(self.last_ms[code])


def _joined(use: _Use, had: _Use | None) -> _Use:
    """The use of one name by several accounts or carriers; filed well by one of them is filed well."""
    if had is None:
        return use
    first = min(had, use)
    return first._replace(last_ms=max(had.last_ms, use.last_ms), well_filed=had.well_filed or use.well_filed)


def _folded(name: str | None) -> str:
    return normalise(name or "")


_Scalar = TypeVar("_Scalar", bound=np.generic)


def _grown(column: npt.NDArray[_Scalar], size: int) -> npt.NDArray[_Scalar]:
    """The column with room for `size` entries, zeros at its end."""
    return column if size <= len(column) else np.concatenate([column, np.zeros(2 * size - len(column), column.dtype)])
