"""States that tests compare, and one that an older portwatch wrote."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

OLD = Path(__file__).parent / "data" / "state-v1"
"""Written by the code of state version 1 after the first 900 rows of tests/units/test_image.py."""


def plain(value: Any) -> Any:
    """Any state as something that `==` compares."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
