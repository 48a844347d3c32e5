"""Who sends what under which name: the interning table behind every count.

A *group* is one combination of port, extension, signature, account and carrier. A row costs one dictionary look-up;
names, registry look-ups and texts are touched only when a group is seen for the first time. Both tables have ceilings;
what does not fit is counted under code 0, the overflow, and never crashes or hides.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from detectors.batch import Codes, Ints, SubmitBatch
from detectors.signature.extract import Form, extract_column
from detectors.signature.masking import masked

OVERFLOW = 0
BLOCK = 1024
"""Codes whose changes are told together."""


class GroupKey(NamedTuple):
    access_port: str
    extension: str | None
    signature: str | None  # as a handset shows it; None when there is none or the text can't be judged
    form: int  # detectors.signature.extract.Form
    account: str | None
    carrier: str | None


_NOBODY = GroupKey("", None, None, Form.UNJUDGED, None, None)


class _Table(dict[tuple[object, ...], int]):
    """key -> code; a missing key gets the next code. The dict's own miss hook keeps the path of known keys in C."""

    __slots__ = ("limit",)

    def __init__(self, keys: Iterable[tuple[object, ...]], limit: int) -> None:
        super().__init__(zip(keys, range(1, limit + 1), strict=False))
        self.limit = limit

    def __missing__(self, key: tuple[object, ...]) -> int:
        if len(self) >= self.limit:
            return OVERFLOW
        code = self[key] = len(self) + 1
        return code


@dataclass(eq=False)
class Groups:
    """Groups and ports of one partition. Codes are dense, start at 1 and never change; 0 is the overflow.

    Shapes: `keys`, `samples` have one entry per group code, `ports` one per port code; `port_of` is over-allocated,
    int32[>= len(keys)].

    `touched` has the blocks of BLOCK group codes whose keys or samples have changed since its reader last emptied it,
    `touched_ports` those of port codes.
    """

    group_limit: int = 1 << 20
    port_limit: int = 1 << 17
    keys: list[GroupKey] = field(default_factory=lambda: [_NOBODY])
    samples: list[str] = field(default_factory=lambda: [""])  # masked start of the first text of the group
    ports: list[str] = field(default_factory=lambda: [""])
    port_of: Codes = field(default_factory=lambda: np.zeros(1024, np.int32))
    overflowed: int = 0  # rows that fell to code 0

    def __post_init__(self) -> None:
        # Derived, so not fields: a checkpoint holds the names once and the tables are made anew from them.
        self._codes = _Table(self.keys[1:], self.group_limit)
        self._port_codes = _Table(((port,) for port in self.ports[1:]), self.port_limit)
        self.touched: set[int] = set()
        self.touched_ports: set[int] = set()

    def intern(self, batch: SubmitBatch) -> Codes:
        """The group code of every row, int32[n]; unknown groups get theirs in row order."""
        known = len(self._codes)
        names, forms = extract_column(batch.text)
        rows = zip(batch.access_port, batch.extension, names, forms, batch.account, batch.carrier, strict=True)
        codes = np.fromiter(map(self._codes.__getitem__, rows), np.int32, len(batch))
        if len(self._codes) > known:
            self._describe(batch, codes, known)
        if len(self._codes) == self.group_limit:
            self.overflowed += int((codes == OVERFLOW).sum())
        return codes

    def port_code(self, access_port: str) -> int:
        """The code of a port, given one if it is new; OVERFLOW when the table is full."""
        code = self._port_codes[access_port,]
        if code == len(self.ports):
            self.touched_ports.add(code // BLOCK)
            self.ports.append(access_port)
        return code

    def _describe(self, batch: SubmitBatch, codes: Codes, known: int) -> None:
        fresh = np.flatnonzero(codes > known)
        _, first = np.unique(codes[fresh], return_index=True)
        rows: Ints = fresh[first]
        if (size := known + 1 + len(rows)) > len(self.port_of):
            self.port_of = np.concatenate([self.port_of, np.zeros(max(size, len(self.port_of)), np.int32)])
        for row, key in zip(rows.tolist(), _newest(self._codes, len(rows)), strict=True):
            group = GroupKey(*key)  # type: ignore[arg-type]  # the table's keys are made by `intern`
            self.port_of[len(self.keys)] = self.port_code(group.access_port)
            self.touched.add(len(self.keys) // BLOCK)
            self.keys.append(group)
            text = batch.text[row]
            self.samples.append(masked(text, group.signature, Form(group.form)) if text else "")


def _newest(table: _Table, count: int) -> list[tuple[object, ...]]:
    """The keys that were added last, oldest of them first."""
    return list(islice(reversed(table), count))[::-1]
