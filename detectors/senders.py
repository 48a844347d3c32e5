"""Who carries what a finding speaks of: the full ports and accounts with the most, and samples to look at."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from detectors.batch import Codes, Flags, Ints
from detectors.contract import Pane
from detectors.groups import OVERFLOW, Groups
from detectors.signature.masking import visible

_TOP = 5
_READ = 1_000  # of the groups of one port, the largest: it costs nothing to invent groups


def sending(ports: Codes, number: int) -> Flags:
    """[number of ports]: which of them have a row? Marking them is ten times as fast as sorting the rows."""
    marks = np.zeros(number, np.bool_)
    marks[ports] = True
    marks[OVERFLOW] = False
    return marks


def by_port(ports: Codes, chosen: Codes) -> Iterator[tuple[int, Ints]]:
    """(port, places of its rows) for each of the chosen ports, ascending; `ports` has the port code of each row."""
    order = np.argsort(ports, kind="stable")
    begins = np.searchsorted(ports, chosen, side="left", sorter=order).tolist()
    ends = np.searchsorted(ports, chosen, side="right", sorter=order).tolist()
    for port, begin, end in zip(chosen.tolist(), begins, ends, strict=True):
        yield port, order[begin:end]


def top_senders(groups: Groups, codes: Codes | Ints, counts: Ints, unit: str) -> dict[str, Any]:
    """Evidence: the full ports, and the accounts, with the most of what was counted per group, named by its unit."""
    # Of equals the one that is known for longest comes first: codes say nothing, they are used again.
    largest = np.lexsort((groups.since_ms[codes], -counts))[:_READ]
    extensions, accounts = Counter[str | None](), Counter[str | None]()
    for code, count in zip(codes[largest].tolist(), counts[largest].tolist(), strict=True):
        if count:
            key = groups.keys[code]
            extensions[key.extension] += count
            accounts[key.account] += count
    return {
        "top_full_ports": [{"extension": extension, unit: n} for extension, n in extensions.most_common(_TOP)],
        "top_accounts": [
            {"account": visible(account) if account else None, unit: n} for account, n in accounts.most_common(_TOP)
        ],
    }


def samples(pane: Pane, rows: Ints | Flags) -> tuple[int, ...]:
    """Offsets of the first submits of the largest of these rows of a pane."""
    recipients, offsets = pane.recipients[rows], pane.first_offset[rows]
    chosen: list[int] = offsets[np.lexsort((offsets, -recipients))[:_TOP]].tolist()
    return tuple(chosen)
