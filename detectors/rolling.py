"""Sums over the last while of event time, in slots, so that what they cost is fixed whatever passes through."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_Sums = npt.NDArray[np.int32]


@dataclass(slots=True)
class Rolling:
    """Sums over the last slots of `slot_ms`, the current one included.

    `sums` is a ring of int32[slots, amounts], little-endian. Bytes, because there are thousands of them: as Python
    numbers they would take ten times the memory, as arrays a page of a checkpoint each.
    """

    slot_ms: int
    amounts: int
    sums: bytes
    newest: int = 0  # number of the current slot; 0 = none yet

    def add(self, at_ms: int, *amounts: int) -> None:
        """Event time may not go back by more than the window."""
        sums = self._ring().copy()
        slot, slots = at_ms // self.slot_ms, len(sums)
        passed = range(max(self.newest + 1, slot - slots + 1), slot + 1)
        if passed:
            sums[[number % slots for number in passed]] = 0
            self.newest = slot
        sums[slot % slots] += np.array(amounts, np.int32)
        self.sums = sums.tobytes()

    def total(self) -> list[int]:
        """As of the newest amount, of each of the amounts."""
        totals: list[int] = self._ring().sum(axis=0, dtype=np.int64).tolist()
        return totals

    def _ring(self) -> _Sums:
        ring: npt.NDArray[Any] = np.frombuffer(self.sums, "<i4")
        return ring.reshape(-1, self.amounts)


def rolling(slot_ms: int, slots: int, amounts: int) -> Rolling:
    """Nothing yet."""
    return Rolling(slot_ms, amounts, bytes(4 * slots * amounts))
