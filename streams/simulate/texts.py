"""What the messages say: templates of texts.toml, rendered into variants that differ in one number per submit."""

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np
import orjson

Place = Literal["head", "tail"]

_DATA: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath("texts.toml").read_text("utf-8"))
BOOKS: dict[str, list[str]] = _DATA["books"]
_VALUES: dict[str, list[str]] = _DATA["values"]

_LIVE = "{live}"
_LIVE_DIGITS = 6
_SINGLE = 70  # UCS2 characters of one short message
_PART = 67  # and of each part of a long one, which gives 6 octets to its header


@dataclass(frozen=True, slots=True)
class Variant:
    """A text as JSON without quotes, cut where the live number goes; and how many segments it takes."""

    before: bytes
    after: bytes
    segments: int

    def with_number(self, live: int) -> str:
        """The whole text."""
        text: str = orjson.loads(b'"%b%06d%b"' % (self.before, live, self.after))
        return text


def variants(rng: np.random.Generator, book: str, head: str | None, tail: str | None, count: int) -> list[Variant]:
    """`count` texts of a book, signed at the head, the tail, both or not at all."""
    templates = BOOKS[book]
    first = int(rng.integers(len(templates)))
    chosen = [templates[(first + number) % len(templates)] for number in range(count)]
    return [_variant(_bracketed(head) + _filled(rng, template) + _bracketed(tail)) for template in chosen]


def segments(text: str) -> int:
    """Short messages that a text takes in UCS2."""
    units = len(text.encode("utf-16-le")) // 2
    return 1 if units <= _SINGLE else -(-units // _PART)


def _filled(rng: np.random.Generator, template: str) -> str:
    def value(match: re.Match[str]) -> str:
        values = _VALUES[match[1]]
        return values[int(rng.integers(len(values)))]

    return re.sub(r"\{(?!live)(\w+)\}", value, template)


def _bracketed(signature: str | None) -> str:
    return f"【{signature}】" if signature else ""


def _variant(text: str) -> Variant:
    before, after = orjson.dumps(text)[1:-1].split(_LIVE.encode())
    return Variant(before, after, segments(text.replace(_LIVE, "0" * _LIVE_DIGITS)))
