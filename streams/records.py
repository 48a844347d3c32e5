"""Alerts, commands and pane counts as the JSON of the contract: one encoder for every output."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from detectors.contract import Alert, Command, Pane


def encode(record: Alert | Command | dict[str, Any]) -> bytes:
    """A record as one line of JSON, without the newline. Absent optional fields are null."""
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)


def port_counts(pane: Pane, *, amends: bool) -> Iterator[dict[str, Any]]:
    """The counts of a closed pane per port (topic sms.panes.v1); `amends`: late rows, to be added to what was said.

    A pane is told once per port and start, its late rows once per port, start and watermark that they met.
    """
    ports, row_port = np.unique(pane.groups.port_of[pane.group], return_inverse=True)
    columns = (pane.submits, pane.retries, pane.recipients, pane.segments)
    sums = [np.bincount(row_port, weights=column).astype(np.int64).tolist() for column in columns]
    for port, submits, retries, recipients, segments in zip(ports.tolist(), *sums, strict=True):
        yield {
            "access_port": pane.groups.ports[port],
            "start_ms": pane.start_ms,
            "duration_ms": pane.end_ms - pane.start_ms,
            "submits": submits,
            "retries": retries,
            "recipients": recipients,
            "segments": segments,
            "amends": amends,
            "watermark_ms": pane.watermark_ms if amends else None,
        }
