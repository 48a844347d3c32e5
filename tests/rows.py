"""Rows as tests write them, made into batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.batch import NO_TIME, SubmitBatch

START_MS = 1_762_736_400_000  # 2025-11-10 09:00 in Shanghai, the start of a pane


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One submit; times in ms after START_MS."""

    id: int
    at_ms: int = 0
    received_ms: int | None = None
    port: str = "10690010"
    extension: str | None = None
    account: str | None = None
    carrier: str | None = None
    text: str | None = "【青禾银行】您的验证码是1234，请勿泄露。"
    recipients: int = 1
    segments: int = 1
    is_retry: bool = False


def batch(rows: Sequence[Row], first_offset: int = 0, floor_ms: int = 0) -> SubmitBatch:
    """The rows in order; offsets count from `first_offset`."""
    received = [NO_TIME if row.received_ms is None else START_MS + row.received_ms for row in rows]
    return SubmitBatch(
        offset=np.arange(first_offset, first_offset + len(rows), dtype=np.int64),
        event_time_ms=np.array([START_MS + row.at_ms for row in rows], np.int64),
        received_ms=np.array(received, np.int64),
        event_id=np.array([row.id + 1 for row in rows], np.uint64),
        access_port=[row.port for row in rows],
        extension=[row.extension for row in rows],
        account=[row.account for row in rows],
        carrier=[row.carrier for row in rows],
        text=[row.text for row in rows],
        recipients=np.array([row.recipients for row in rows], np.int64),
        segments=np.array([row.segments for row in rows], np.int64),
        is_retry=np.array([row.is_retry for row in rows], np.bool_),
        floor_ms=floor_ms,
    )
