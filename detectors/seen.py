"""Which event ids were seen already? The first wins; a redelivery is not new traffic.

Two generations of ids in open-addressing tables: when the younger is full, the older is forgotten. So at least the last
`generation` ids and at most twice as many are remembered, in bounded memory, whatever senders do.
"""

from dataclasses import dataclass, field

import numpy as np

from detectors.batch import Flags, Hashes

_SMALLEST = 1 << 10
_SALT = np.uint64(hash("event ids") & (1 << 64) - 1 | 1)
"""Python's own salt of texts, new in every process, so that nobody can choose ids that crowd one place of a table. It
decides where an id lies, never whether it was seen. Multiply-shift: Dietzfelbinger et al., "A reliable randomized
algorithm for the closest-pair problem", 1997."""


def _zeros(slots: int) -> Hashes:
    return np.zeros(slots, np.uint64)


@dataclass(eq=False)
class Ids:
    """A set of non-zero 64-bit hashes. `order`: uint64[>= count], in the order in which they came, so that what was
    saved once stays as it is. The table is made from it: linear probing, at most half full.
    """

    order: Hashes = field(default_factory=lambda: _zeros(_SMALLEST))
    count: int = 0

    def __post_init__(self) -> None:
        self._table = _zeros(_SMALLEST)  # derived, so not a field: a checkpoint leaves it out
        self._rebuild(0)

    def reserve(self, more: int) -> None:
        """Make room for so many ids; slots found before are then void."""
        if (self.count + more) * 2 > len(self._table):
            self._rebuild(more)

    def slots(self, ids: Hashes) -> Hashes:
        """For each id its slot, or the empty slot where it would go."""
        mask = np.uint64(len(self._table) - 1)
        slots = ids * _SALT >> np.uint64(65 - len(self._table).bit_length())
        there = self._table[slots]
        astray = np.flatnonzero((there != ids) & (there != 0))
        while len(astray):
            slots[astray] = (slots[astray] + np.uint64(1)) & mask
            there = self._table[slots[astray]]
            astray = astray[(there != ids[astray]) & (there != 0)]
        return slots

    def holds(self, ids: Hashes, slots: Hashes) -> Flags:
        held: Flags = self._table[slots] == ids
        return held

    def add(self, ids: Hashes, slots: Hashes) -> None:
        """Add ids that are distinct and not held, where `slots` found room for each."""
        if (count := self.count + len(ids)) > len(self.order):
            self.order = np.concatenate([self.order, _zeros((1 << (count - 1).bit_length()) - len(self.order))])
        self.order[self.count : count] = ids
        self.count = count
        self._place(ids, slots)

    def _rebuild(self, more: int) -> None:
        slots = len(self._table)
        while (self.count + more) * 2 > slots:
            slots *= 2
        self._table = _zeros(slots)
        held = self.order[: self.count]
        self._place(held, self.slots(held))

    def _place(self, ids: Hashes, slots: Hashes) -> None:
        while len(ids):
            self._table[slots] = ids
            lost = self._table[slots] != ids  # to another id of this call that wants the same slot: probe on
            ids = ids[lost]
            slots = self.slots(ids)


@dataclass(slots=True, eq=False)
class SeenIds:
    """The ids of the last submits of one partition; after `generation` new ids the older half goes."""

    generation: int = 1 << 19
    generations: list[Ids] = field(default_factory=lambda: [Ids(), Ids()])
    turn: int = 0  # which of the two is the younger

    def first_seen(self, ids: Hashes) -> Flags:
        """Mark the rows that are the first of their id, and remember them. Generations turn at an exact row."""
        first = np.empty(len(ids), np.bool_)
        start = 0
        while start < len(ids):
            young, old = self.generations[self.turn], self.generations[1 - self.turn]
            rest = ids[start:]
            young.reserve(len(rest))
            slots = young.slots(rest)
            fresh = _first_of_each(rest) & ~young.holds(rest, slots)
            if old.count:
                fresh &= ~old.holds(rest, old.slots(rest))
            room = self.generation - young.count
            ranks = np.cumsum(fresh)
            stop = len(rest) if ranks[-1] < room else int(np.searchsorted(ranks, room)) + 1
            first[start : start + stop] = fresh[:stop]
            young.add(rest[:stop][fresh[:stop]], slots[:stop][fresh[:stop]])
            if young.count >= self.generation:
                self.turn = 1 - self.turn
                self.generations[self.turn] = Ids()
            start += stop
        return first


def _first_of_each(ids: Hashes) -> Flags:
    ordered = np.sort(ids)  # cheap (vectorised); the exact answer is only worked out when there is a repeat
    if not (ordered[1:] == ordered[:-1]).any():
        return np.ones(len(ids), np.bool_)
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    return first
