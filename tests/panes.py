"""Closed panes as tests write them: who sent how much under which name."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectors.contract import PANE_MS, Detector, Finding, Pane
from detectors.groups import Groups
from detectors.registry import Carrier, Registry
from tests.rows import START_MS, Row, batch

BANK = "青禾银行"
PORT = "10690010"


@dataclass(frozen=True, slots=True)
class Send:
    """Submits of one group within one pane."""

    name: str | None = BANK
    submits: int = 1
    port: str = PORT
    extension: str | None = "01"
    carrier: Carrier | None = None
    text: str | None = None  # instead of a plain head with the name

    def row(self, identity: int) -> Row:
        text = self.text or (f"【{self.name}】您的验证码是482913" if self.name else "您的验证码是482913")
        return Row(id=identity, port=self.port, extension=self.extension, carrier=self.carrier, text=text)


@dataclass(slots=True)
class Line:
    """One partition as one detector sees it: panes follow each other."""

    registry: Registry
    detector: Detector[Any]
    groups: Groups = field(default_factory=Groups)
    offset: int = 0
    state: Any = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.detector.start()

    def pane(self, at: int, sends: Iterable[Send]) -> list[Finding]:
        """Findings of the pane with the number `at`, counted from START_MS."""
        rows = [send.row(self.offset + n) for n, send in enumerate(sends) for _ in range(send.submits)]
        codes = self.groups.intern(batch(rows), self.registry)
        group, first, submits = np.unique(codes, return_index=True, return_counts=True)
        offsets = self.offset + first.astype(np.int64)
        self.offset += len(rows)
        start_ms = START_MS + at * PANE_MS
        zeros = np.zeros(len(group), np.int64)
        counts = submits.astype(np.int64)
        made = Pane(start_ms, start_ms + 2 * PANE_MS, group, counts, zeros, counts, counts, offsets, self.groups)
        return self.detector.step(self.state, made, self.registry)
