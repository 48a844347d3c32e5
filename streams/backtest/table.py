"""Files of `timestamp,value` to columns, and scores to CSV.

By hand, about 1 us a row in and out: polars would save half of that, and weighs 170 MB, as pyarrow does. What a file
takes in memory is its columns: two numbers and the text of the stamp per row, whatever else is in the rows.
"""

import csv
import gzip
import zlib
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self, cast

import numpy as np
import numpy.typing as npt
import orjson

from detectors.batch import Floats, Ints
from streams.backtest import stamps
from streams.backtest.stamps import Texts
from streams.feeds.lines import LONGEST_LINE_BYTES, PIECE_BYTES, Lines

DELIMITERS = b",;\t"
MOST_TOLD = 5
"""Bad rows of one file that are told one by one."""
SHOWN_CHARACTERS = 40
DIGITS = 6
"""Significant ones of what we compute; nobody reads the others, and they would double the file."""
OBSERVED_DIGITS = 12
"""Of a sum or a mean of what a file says: rounds 0.1 + 0.2 to 0.3, and keeps every value that people measure."""
LARGEST = float(np.finfo(np.float64).max)
WHOLE_BELOW = 1e15  # whole numbers below it are exact, and stay whole


class TableError(Exception):
    """A file without anything to judge; the text says why."""


@dataclass(slots=True)
class Problems:
    """What was wrong with the rows of a file."""

    first: list[tuple[int, str]] = field(default_factory=list)  # the first few: line and what is wrong with it
    count: int = 0

    def add(self, line: int, text: str) -> None:
        self.count += 1
        if len(self.first) < MOST_TOLD or line < self.first[-1][0]:
            insort(self.first, (line, text))
            del self.first[MOST_TOLD:]

    def told(self) -> Iterator[str]:
        """As lines for people."""
        yield from (f"line {line}: {text}" for line, text in self.first)
        if more := self.count - len(self.first):
            yield f"{more:,} more rows have problems"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a file that have a time, in the order of time; rows of one time stay in the order of the file."""

    time_ms: Ints
    stamp: Texts  # the times as the file writes them
    value: Floats  # NaN = no value


def read(file: Path, problems: Problems, progress: Callable[[int], None] = lambda _: None) -> Rows:
    """The rows of a CSV file, gzipped when its name ends in .gz; `progress` hears of bytes read of the file.

    Raises `TableError` where no row has both a time and a value, OSError where the file can't be read.
    """
    with file.open("rb") as raw, closing(_content(file, raw)) as content:
        try:
            parts = list(_parts(content, problems, _advance(raw, progress)))
        except (EOFError, zlib.error) as error:
            raise TableError(f"is not whole: {error}") from None
    if not any(np.isfinite(part.value).any() for part in parts):
        raise TableError(f"no row has both a timestamp ({stamps.ALLOWED}) and a value that is a number")
    rows = Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("time_ms", "stamp", "value")))
    if (rows.time_ms[1:] >= rows.time_ms[:-1]).all():
        return rows
    order = np.argsort(rows.time_ms, kind="stable")
    return Rows(rows.time_ms[order], rows.stamp[order], rows.value[order])


def _content(file: Path, raw: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if file.suffix.lower() == ".gz" else raw


def _advance(raw: BinaryIO, progress: Callable[[int], None]) -> Callable[[], None]:
    """Tells how far the file is read by now, packed or not; a pipe does not know."""
    told = 0

    def advance() -> None:
        nonlocal told
        progress(raw.tell() - told)
        told = raw.tell()

    return advance if raw.seekable() else lambda: None


def _parts(content: BinaryIO, problems: Problems, advance: Callable[[], None]) -> Iterator[Rows]:
    cutter, columns, number = Lines(), None, 1
    at_end = False
    while not at_end:
        data = content.read(PIECE_BYTES)
        at_end = not data
        lines = cutter.end() if at_end else cutter.cut(data)
        advance()
        for _ in range(cutter.overlong):
            problems.add(number + len(lines), f"is longer than {LONGEST_LINE_BYTES:,} bytes")
        number, cutter.overlong = number + cutter.overlong, 0
        if columns is None and lines:
            columns, has_names = Columns.of(lines[0].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r"))
            lines, number = lines[has_names:], number + has_names
        if columns and lines:
            yield columns.take(lines, number, problems)
            number += len(lines)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row the time and the value are."""

    delimiter: bytes
    stamp: int
    value: int

    @classmethod
    def of(cls, line: bytes) -> tuple[Self, bool]:
        """Told by the first line, and whether that names columns or is a row already. Raises `TableError`."""
        delimiter = max((bytes([one]) for one in DELIMITERS), key=line.count)
        fields = _fields(line, delimiter)
        names = [name.strip().lower() for name in fields]
        if b"timestamp" in names and b"value" in names:
            return cls(delimiter, names.index(b"timestamp"), names.index(b"value")), True
        if len(fields) > 1 and stamps.parse(np.array(fields[:1]))[0] != stamps.NO_TIME:
            return cls(delimiter, 0, 1), False
        raise TableError(f"line 1 must name the columns timestamp and value, it is {_shown(line)}")

    def take(self, lines: Sequence[bytes], first: int, problems: Problems) -> Rows:
        """The rows of lines, the first of which has that number."""
        is_quoted = b'"' in b"".join(lines)
        fields = [_fields(line, self.delimiter) if is_quoted else line.split(self.delimiter) for line in lines]
        width = max(self.stamp, self.value) + 1
        if min(map(len, fields)) < width:
            fields = [row + [b""] * (width - len(row)) for row in fields]
        texts = [row[self.stamp].strip() for row in fields]
        values = [row[self.value] for row in fields]
        stamp = np.array(texts, f"S{min(max(map(len, texts)), stamps.LONGEST) or 1}")
        time_ms = stamps.parse(stamp)
        has_time = time_ms != stamps.NO_TIME
        for row in np.flatnonzero(~has_time).tolist():
            if any(map(bytes.strip, fields[row])):
                problems.add(first + row, f"timestamp: {_shown(texts[row])} is no time: {stamps.ALLOWED}")
            values[row] = b"nan"  # one problem of a row is enough
        value = _numbers(values, first, problems)
        return Rows(time_ms[has_time], stamp[has_time], value[has_time])


def _fields(line: bytes, delimiter: bytes) -> list[bytes]:
    """Of a line; a quote that is never closed ends with its line."""
    if b'"' not in line:
        return line.split(delimiter)
    text = line.decode("latin-1").rstrip("\r")  # any byte is a letter of latin-1, and comes back as it was
    try:
        return [field.encode("latin-1") for field in next(csv.reader([text], delimiter=delimiter.decode()))]
    except csv.Error:
        return [line]


def _numbers(texts: Sequence[bytes], first: int, problems: Problems) -> Floats:
    """Of texts; NaN where there is none. Empty and NaN are how files say so; the rest is a problem."""
    try:
        value = np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        value = np.array([_number(text, first + row, problems) for row, text in enumerate(texts)])
    for row in np.flatnonzero(np.isinf(value)).tolist():
        problems.add(first + row, f"value: {_shown(texts[row])} is not finite")
        value[row] = np.nan
    return value


def _number(text: bytes, line: int, problems: Problems) -> float:
    try:
        return float(text)
    except ValueError:
        if text.strip():
            problems.add(line, f"value: {_shown(text.strip())} is not a number")
        return np.nan


def _shown(value: bytes) -> str:
    text = value[: 4 * SHOWN_CHARACTERS].decode(errors="replace")
    return orjson.dumps(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...").decode()


# ---- writing

HEADER = b"timestamp,observed,expected,low,high,surprise,alert\n"


def lines(stamp: Sequence[bytes], observed: Floats, scores: Floats) -> bytes:
    """CSV lines under `HEADER`; `scores` is expected, low, high, surprise and alert, shape [5, n]. NaN is empty."""
    table = np.empty((len(stamp), 6))
    table[:, 0] = rounded(observed, OBSERVED_DIGITS)
    table[:, 1:] = rounded(scores, DIGITS).T
    rows = orjson.dumps(table, option=orjson.OPT_SERIALIZE_NUMPY)[2:-1].replace(b".0,", b",").replace(b".0]", b"]")
    numbers = rows.replace(b"null", b"").removesuffix(b"]").split(b"],[")
    return b"\n".join(map(b",".join, zip(stamp, numbers, strict=True))) + b"\n"


def rounded(number: Floats, digits: int) -> Floats:
    """To so many significant digits, as the nearest float; whole numbers stay whole, -0 is 0."""
    with np.errstate(all="ignore"):
        size = np.abs(number)
        places = np.where(size > 0, digits - 1 - np.floor(np.log10(size)), 0.0)
        is_odd = np.abs(places) > 22  # noqa: PLR2004 - powers of ten are exact up to there
        scale = _TENS[np.where(np.isfinite(places) & ~is_odd, np.abs(places), 0).astype(np.int64)]
        near = np.where(places >= 0, np.rint(number * scale) / scale, np.rint(number / scale) * scale)
    result = np.where((size < WHOLE_BELOW) & (number == np.rint(number)), number, near) + 0.0
    for at in np.argwhere(is_odd & np.isfinite(number)):
        place = tuple(at)
        result[place] = min(max(float(f"{number[place]:.{digits - 1}e}"), -LARGEST), LARGEST)
    return result


_TENS: npt.NDArray[np.float64] = np.array([float(f"1e{power}") for power in range(23)])
