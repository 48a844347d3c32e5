"""Which event ids were seen already? The first wins; a redelivery is not new traffic.

Two generations of ids in open-addressing tables: when the younger is full, the older is forgotten. So at least the last
`generation` ids and at most twice as many are remembered, in bounded memory, whatever senders do.
"""

from dataclasses import dataclass, field

import numpy as np

from detectors.batch import Flags, Hashes

_SMALLEST = 1 << 10


def _table(slots: int) -> Hashes:
    return np.zeros(slots, np.uint64)


@dataclass(slots=True, eq=False)
class _Ids:
    """A set of non-zero 64-bit hashes; linear probing, at most half full."""

    table: Hashes = field(default_factory=lambda: _table(_SMALLEST))
    count: int = 0

    def reserve(self, more: int) -> None:
        """Make room for so many ids; slots found before are then void."""
        slots = len(self.table)
        while (self.count + more) * 2 > slots:
            slots *= 2
        if slots > len(self.table):
            held = self.table[self.table != 0]
            self.table = _table(slots)
            self._place(held, self.slots(held))

    def slots(self, ids: Hashes) -> Hashes:
        """For each id its slot, or the empty slot where it would go."""
        mask = np.uint64(len(self.table) - 1)
        slots = ids & mask
        there = self.table[slots]
        astray = np.flatnonzero((there != ids) & (there != 0))
        while len(astray):
            slots[astray] = (slots[astray] + np.uint64(1)) & mask
            there = self.table[slots[astray]]
            astray = astray[(there != ids[astray]) & (there != 0)]
        return slots

    def holds(self, ids: Hashes, slots: Hashes) -> Flags:
        held: Flags = self.table[slots] == ids
        return held

    def add(self, ids: Hashes, slots: Hashes) -> None:
        """Add ids that are distinct and not held, where `slots` found room for each."""
        self.count += len(ids)
        self._place(ids, slots)

    def _place(self, ids: Hashes, slots: Hashes) -> None:
        while len(ids):
            self.table[slots] = ids
            lost = self.table[slots] != ids  # to another id of this call that wants the same slot: probe on
            ids = ids[lost]
            slots = self.slots(ids)


@dataclass(slots=True, eq=False)
class SeenIds:
    """The ids of the last submits of one partition; after `generation` new ids the older half goes."""

    generation: int = 1 << 19
    young: _Ids = field(default_factory=_Ids)
    old: _Ids = field(default_factory=_Ids)

    def first_seen(self, ids: Hashes) -> Flags:
        """Mark the rows that are the first of their id, and remember them. Generations turn at an exact row."""
        first = np.empty(len(ids), np.bool_)
        start = 0
        while start < len(ids):
            rest = ids[start:]
            self.young.reserve(len(rest))
            slots = self.young.slots(rest)
            fresh = _first_of_each(rest) & ~self.young.holds(rest, slots)
            if self.old.count:
                fresh &= ~self.old.holds(rest, self.old.slots(rest))
            room = self.generation - self.young.count
            ranks = np.cumsum(fresh)
            stop = len(rest) if ranks[-1] < room else int(np.searchsorted(ranks, room)) + 1
            first[start : start + stop] = fresh[:stop]
            self.young.add(rest[:stop][fresh[:stop]], slots[:stop][fresh[:stop]])
            if self.young.count >= self.generation:
                self.old, self.young = self.young, _Ids()
            start += stop
        return first


def _first_of_each(ids: Hashes) -> Flags:
    ordered = np.sort(ids)  # cheap (vectorised); the exact answer is only worked out when there is a repeat
    if not (ordered[1:] == ordered[:-1]).any():
        return np.ones(len(ids), np.bool_)
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    return first
