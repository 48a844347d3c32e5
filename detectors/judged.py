"""What a rule says about each group, asked once per group and registry snapshot instead of once per pane.

Derived data that no checkpoint needs: what it answers is what asking again would answer, because it forgets everything
when the snapshot changes or a date in it is reached.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from detectors.batch import Codes
from detectors.groups import GroupKey, Groups, grown
from detectors.registry import Registry

Verdict = TypeVar("Verdict")
Judge = Callable[[GroupKey, Registry, int], Verdict | None]  # None: nothing to say

_MOST_VERDICTS = 1 << 16
"""Kept from pane to pane: 20 MB at most."""

_UNASKED, _SILENT, _JUDGED = 0, 1, 2


@dataclass(slots=True, eq=False)
class Judged(Generic[Verdict]):
    """`verdicts` holds those groups only about which there is something to say."""

    registry: Registry | None = None
    since_ms: int = 0
    until_ms: int = 0
    answers: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    def among(self, codes: Codes, judge: Judge[Verdict], groups: Groups, registry: Registry, at_ms: int) -> Codes:
        """Those of the codes that have a verdict at that moment; it is in `verdicts` then."""
        if len(self.verdicts) > _MOST_VERDICTS:
            self._forget_all()
        self._keep_up(registry, at_ms, len(groups.keys))
        for code in codes[self.answers[codes] == _UNASKED].tolist():
            verdict = judge(groups.keys[code], registry, at_ms)
            self.answers[code] = _SILENT if verdict is None else _JUDGED
            if verdict is not None:
                self.verdicts[code] = verdict
        judged: Codes = codes[self.answers[codes] == _JUDGED]
        return judged

    def forget(self, codes: Codes) -> None:
        """These codes will belong to other groups."""
        self.answers[codes[codes < len(self.answers)]] = _UNASKED
        for code in codes.tolist():
            self.verdicts.pop(code, None)

    def _forget_all(self) -> None:
        self.answers[:] = _UNASKED
        self.verdicts = {}

    def _keep_up(self, registry: Registry, at_ms: int, size: int) -> None:
        if registry is not self.registry or not self.since_ms <= at_ms < self.until_ms:
            self.registry, self.since_ms, self.until_ms = registry, at_ms, registry.unchanged_until(at_ms)
            self._forget_all()
        self.answers = grown(self.answers, size)
