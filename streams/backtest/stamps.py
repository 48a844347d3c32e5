"""Times as files write them, to epoch milliseconds and back, a column at a time.

Stamps of one shape (the same punctuation, digits in the same places) are parsed together; a file has one or a few.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from detectors.batch import Ints

Texts = npt.NDArray[np.bytes_]
Bytes = npt.NDArray[np.uint8]

SHANGHAI_MS = 8 * 3_600_000
"""Offset of a stamp that has none. No daylight saving since 1991."""
NO_TIME = np.iinfo(np.int64).min
"""Of a text that is no time, or one out of range."""
EARLIEST_MS, LATEST_MS = -2_208_988_800_000, 7_258_118_400_000
"""1900 to 2200: earlier <= t < later. Nothing else is a time somebody counted at."""
SECONDS_BELOW = 1e11
"""A number below it is epoch seconds (up to the year 5138), from it on milliseconds (since March 1973)."""
ALLOWED = "ISO 8601, or epoch seconds or milliseconds, from 1900 to 2199"
LONGEST = 40
"""Bytes of a stamp; none of the forms below is longer."""

_ISO = re.compile(
    rb"(?P<year>\d{4})(?P<dash>[-/])(?P<month>\d{1,2})[-/](?P<day>\d{1,2})"
    rb"(?:(?P<t>[T ])(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    rb"(?P<offset> ?(?:Z|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>\d\d))?))?)?"
)
_EPOCH = re.compile(rb"[+-]?\d{1,13}(\.\d{0,9})?")


def parse(texts: Texts) -> Ints:
    """Epoch ms of every text, `NO_TIME` where it is none. Slashes for dashes and one-digit months, days and hours are
    taken too: spreadsheets write them."""
    result = np.full(len(texts), NO_TIME, np.int64)
    if not texts.nbytes:
        return result
    letters = np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), -1)
    is_digit = (letters - np.uint8(ord("0"))) < 10  # noqa: PLR2004 - ten digits; what is below "0" wraps around
    shapes = np.where(is_digit, np.uint8(ord("0")), letters).view(texts.dtype).ravel()
    for rows in _alike(shapes):
        result[rows] = _parse_alike(letters[rows], texts[rows])
    result[(result < EARLIEST_MS) | (result >= LATEST_MS)] = NO_TIME
    return result


def like(sample: bytes, time_ms: int) -> bytes:
    """`time_ms` in the form of the stamp `sample`, finer where it has to be."""
    form = _ISO.fullmatch(sample)
    return _iso(form, time_ms) if form else _epoch(sample, time_ms)


def _alike(shapes: Texts) -> Iterator["slice | Ints"]:
    """The rows of each shape."""
    if (shapes == shapes[0]).all():
        yield slice(None)
        return
    order = np.argsort(shapes, kind="stable")
    in_order = shapes[order]
    yield from np.split(order, np.flatnonzero(in_order[1:] != in_order[:-1]) + 1)


def _parse_alike(letters: Bytes, texts: Texts) -> "Ints | int":
    """Epoch ms of texts of one shape."""
    sample = bytes(texts[0])
    if form := _ISO.fullmatch(sample):
        return _parse_iso(letters, form)
    if _EPOCH.fullmatch(sample):
        number = texts.astype(np.float64)
        return np.rint(np.where(np.abs(number) < SECONDS_BELOW, number * 1_000, number)).astype(np.int64)
    return NO_TIME


def _parse_iso(letters: Bytes, form: re.Match[bytes]) -> Ints:
    def number(name: str) -> Ints:
        total = np.zeros(len(letters), np.int64)
        for column in range(*form.span(name)):
            total = total * 10 + (letters[:, column] - ord("0"))
        return total

    year, month, day, hour, minute, second = map(number, ("year", "month", "day", "hour", "minute", "second"))
    months = (year - 1970) * 12 + month - 1
    first_day, next_first = (_day_of_month(months + more) for more in (0, 1))
    is_valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= next_first - first_day)  # noqa: PLR2004 - months
    is_valid &= (hour < 24) & (minute < 60) & (second < 60)  # noqa: PLR2004 - of a day, an hour and a minute
    time_ms = (((first_day + day - 1) * 24 + hour) * 60 + minute) * 60_000 + second * 1_000
    if fraction := form["fraction"]:
        time_ms += number("fraction") * 1_000 // 10 ** len(fraction)
    ahead_ms = (number("hours") * 60 + number("minutes")) * 60_000 if form["offset"] else SHANGHAI_MS
    return np.where(is_valid, time_ms + ahead_ms if form["sign"] == b"-" else time_ms - ahead_ms, NO_TIME)


def _day_of_month(months: Ints) -> Ints:
    """Days since 1970 of the first of a month, given in months since 1970."""
    return months.astype("M8[M]").astype("M8[D]").astype(np.int64)


def _iso(form: re.Match[bytes], time_ms: int) -> bytes:
    minutes = int(form["hours"] or 0) * 60 + int(form["minutes"] or 0)
    ahead_ms = minutes * 60_000 if form["offset"] else SHANGHAI_MS
    wall_ms = time_ms - ahead_ms if form["sign"] == b"-" else time_ms + ahead_ms
    wall = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=wall_ms)
    width = min(len(form[name]) for name in ("month", "day", "hour") if form[name])
    dash = form["dash"].decode()
    text = f"{wall.year:04}{dash}{wall.month:0{width}}{dash}{wall.day:0{width}}"
    millis = wall.microsecond // 1_000
    if form["t"] or wall.hour or wall.minute or wall.second or millis:
        text += f"{(form['t'] or b' ').decode()}{wall.hour:0{width}}:{wall.minute:02}"
        if form["second"] or wall.second or millis:
            text += f":{wall.second:02}"
        if form["fraction"] or millis:
            digits = max(len(form["fraction"] or b""), 3 if millis else 0)
            text += f".{millis:03}".ljust(digits + 1, "0")[: digits + 1]
    return text.encode() + (form["offset"] or b"")


def _epoch(sample: bytes, time_ms: int) -> bytes:
    if abs(float(sample)) >= SECONDS_BELOW:
        return b"%d" % time_ms
    return f"{time_ms / 1_000:.3f}".encode() if time_ms % 1_000 else b"%d" % (time_ms // 1_000)
