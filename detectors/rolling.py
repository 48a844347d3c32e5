"""Sums over the last while of event time, in slots, so that what they cost is fixed whatever passes through."""

from dataclasses import dataclass, field
from operator import add


@dataclass(slots=True)
class Rolling:
    """Sums of equally long tuples over the last `slots` slots of `slot_ms`, the current one included."""

    slot_ms: int
    slots: int
    sums: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def add(self, at_ms: int, *amounts: int) -> None:
        """Event time may not go back by more than the window."""
        slot = at_ms // self.slot_ms
        had = self.sums.get(slot)
        self.sums[slot] = tuple(map(add, had, amounts)) if had else amounts
        for old in [s for s in self.sums if s <= slot - self.slots]:
            del self.sums[old]

    def total(self) -> tuple[int, ...]:
        """As of the newest amount; empty before the first one."""
        return tuple(map(sum, zip(*self.sums.values(), strict=True)))
