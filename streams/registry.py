"""Registry files into a `Registry`: the contract's JSONL or CSV rows, checked row by row, all or nothing.

A file with one bad row is not loaded at all and every bad row is named: half a registry would accuse the other half of
the ports. Where the rows travel over Kafka is the errand of `registry_topics`.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from detectors.registry import IN_FORCE, Campaign, Enterprise, Filing, PortLease, Registry

Row: TypeAlias = PortLease | Filing | Enterprise | Campaign
AnyRow = TypeVar("AnyRow", bound=Row)

FILES: Mapping[str, type[Row]] = {
    "ports": PortLease,
    "signatures": Filing,
    "enterprises": Enterprise,
    "campaigns": Campaign,
}
WIRE_NAMES = {"since": "from"}  # `from` is no name in Python
_NAMES = {wire: name for name, wire in WIRE_NAMES.items()}
_ALIASES: Mapping[type, Mapping[str, str]] = {PortLease: {"carrier": "carriers", "purpose": "purposes"}}
TIME_KEYS: Mapping[type, Sequence[str]] = {
    PortLease: ("effective_from", "effective_to", "authorised_from", "authorised_to"),
    Filing: ("effective_from", "effective_to", "last_traffic"),
    Enterprise: (),
    Campaign: ("from", "to"),
}
_LISTS: Mapping[type, Sequence[str]] = {
    PortLease: ("carriers", "purposes"),
    Filing: ("links", "numbers"),
    Enterprise: ("brands", "protected_brands"),
    Campaign: (),
}
_STRUCTURED = ("third_parties", "paths", "caps")

SHANGHAI = timezone(timedelta(hours=8))  # no daylight saving since 1991
FIRST_MS = 946_684_800_000  # 2000-01-01: smaller numbers are seconds, or a date written as a number
LAST_MS = 253_402_300_799_999  # the end of 9999, which many databases use for 'open'
TIME_ALLOWED = "epoch milliseconds, ISO 8601 with an offset, or a date"
SHOWN_CHARACTERS = 60


class RegistryError(Exception):
    """A registry that must not be used. `problems` has every bad row as 'file:line: key: value: what is allowed'."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class RowError(ValueError):
    """A bad row: which key, its value, and what is allowed."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + "..."
        super().__init__(f"{key}: {shown}: {allowed}")


@dataclass(frozen=True)
class Loaded:
    """A registry, what a person should look at, and what was in the files but is no part of the contract."""

    registry: Registry
    warnings: list[str]
    ignored: Counter[str] = field(default_factory=Counter)  # 'ports.csv: column x' -> rows, 'other.txt' -> 1


def load_folder(folder: Path) -> Registry:
    """The registry of a folder. Raises `RegistryError`."""
    return read_folder(folder).registry


def read_folder(folder: Path) -> Loaded:
    """The registry of a folder, with warnings and what was ignored.

    Raises `RegistryError` when the folder or both ports and signatures are missing, a row is bad, or rows of one key
    overlap in time.
    """
    if not folder.is_dir():
        raise RegistryError([f"{folder}: no such folder"])
    ignored: Counter[str] = Counter()
    problems: list[str] = []
    warnings: list[str] = []
    rows: dict[str, list[Any]] = {}
    for name, kind in FILES.items():
        found = [path for path in (folder / f"{name}.jsonl", folder / f"{name}.csv") if path.exists()]
        if len(found) > 1:
            problems.append(f"{folder}: both {name}.jsonl and {name}.csv: keep one of them")
        rows[name] = _read(found[0], kind, problems, ignored) if found else []
        if not found and kind in {PortLease, Filing}:
            warnings.append(f"{folder}: no {name}.jsonl and no {name}.csv")
    if len(warnings) > 1:
        problems += warnings
    ignored.update(path.name for path in folder.iterdir() if path.stem not in FILES or path.suffix not in _READERS)
    if problems:
        raise RegistryError(problems)
    registry = build(rows["ports"], rows["signatures"], rows["enterprises"], rows["campaigns"])
    return Loaded(registry, warnings + list(_several_names(registry)), ignored)


def build(
    ports: Sequence[PortLease],
    filings: Sequence[Filing],
    enterprises: Sequence[Enterprise],
    campaigns: Sequence[Campaign],
) -> Registry:
    """A snapshot whose version is a hash of its rows, whatever their order and wherever they came from."""
    encode = msgspec.json.Encoder().encode
    total = 0  # a sum of hashes needs no sorted copy of a million rows
    for kind, rows in zip(FILES, (ports, filings, enterprises, campaigns), strict=True):
        label = kind.encode()
        for row in rows:
            total += int.from_bytes(blake2b(encode(row), digest_size=8, person=label).digest())
    version = f"{total % 2**64:016x}"
    return Registry(tuple(ports), tuple(filings), tuple(enterprises), tuple(campaigns), version)


def parse_row(kind: type[AnyRow], wire: Mapping[str, Any], ignored: Counter[str] | None = None) -> AnyRow:
    """A row of the contract, by its wire names; unknown keys are counted in `ignored`. Raises `RowError`."""
    return _convert(kind, wire, Counter() if ignored is None else ignored, strict=True)


def wire_row(row: Row) -> dict[str, Any]:
    """The row as it goes over the wire: the contract's names, absent fields left out."""
    return cast("dict[str, Any]", _to_wire(msgspec.to_builtins(row)))


def _to_wire(value: object) -> object:
    if isinstance(value, dict):
        return {WIRE_NAMES.get(key, key): _to_wire(item) for key, item in value.items() if item is not None}
    return [_to_wire(item) for item in value] if isinstance(value, list | tuple) else value


# ---- files


def _read(path: Path, kind: type[AnyRow], problems: list[str], ignored: Counter[str]) -> list[AnyRow]:
    """All rows of a file; what is wrong with them goes to `problems`, what is unknown to `ignored`."""
    rows: list[AnyRow] = []
    lines: list[int] = []
    unknown: Counter[str] = Counter()
    is_csv = path.suffix == ".csv"
    try:
        for line, wire in _READERS[path.suffix](path):
            try:
                if isinstance(wire, RowError):
                    raise wire
                rows.append(_convert(kind, _from_cells(kind, wire) if is_csv else wire, unknown, strict=not is_csv))
                lines.append(line)
            except RowError as error:
                problems.append(f"{path.name}:{line}: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path.name}: {error}: must be a readable UTF-8 file")
    ignored.update({f"{path.name}: column {key}": count for key, count in unknown.items()})
    problems += [f"{path.name}:{lines[at]}: {error}" for at, error in overlaps(rows)]
    return rows


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    decode = msgspec.json.Decoder().decode
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(b"\xef\xbb\xbf").strip()
            if not line:
                continue
            try:
                wire = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                yield number, RowError("row", line.decode("utf-8", "replace"), f"must be JSON ({error})")
                continue
            yield number, wire if isinstance(wire, dict) else RowError("row", wire, "must be a JSON object")


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for column, count in Counter(reader.fieldnames or ()).items():
            if count > 1:
                yield 1, RowError("column", column, "must stand there once")
        for wire in reader:
            extra = cast("dict[str | None, Any]", wire).pop(None, None)  # cells without a column
            yield reader.line_num, RowError("row", extra, "has more cells than columns") if extra else wire


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {".jsonl": _json_lines, ".csv": _csv_rows}


def _from_cells(kind: type, cells: Mapping[str, str | None]) -> dict[str, Any]:
    """Text cells as JSON would have them: lists are JSON or separated by ';', nested values JSON, numbers numbers."""
    row: dict[str, Any] = {key: cell for key, cell in cells.items() if cell}
    row.update({key: _from_json(key, row[key]) for key in _STRUCTURED if key in row})
    for key in _LISTS[kind]:
        if key in row:
            is_json = row[key].startswith("[")
            row[key] = _from_json(key, row[key]) if is_json else [part.strip() for part in row[key].split(";")]
    row.update({key: int(row[key]) for key in TIME_KEYS[kind] if _is_number(row.get(key, ""))})
    return row


def _from_json(key: str, cell: str) -> object:
    try:
        return json.loads(cell)
    except ValueError:
        raise RowError(key, cell, "must be JSON") from None


# ---- rows


def _convert(kind: type[AnyRow], wire: Mapping[str, Any], unknown: Counter[str], *, strict: bool) -> AnyRow:
    row = {key: value for key, value in wire.items() if value is not None and value != ""}
    for alias, key in _ALIASES.get(kind, {}).items():
        if alias in row:
            row.setdefault(key, [row.pop(alias)])
    for key in TIME_KEYS[kind]:
        if key in row:
            row[key] = time_ms(key, row[key])
    if kind is PortLease and "third_parties" in row:
        row["third_parties"] = _third_parties(row["third_parties"])
    if not row.keys() <= _KEYS[kind]:
        unknown.update(row.keys() - _KEYS[kind])
    try:
        converted = msgspec.convert(_with_names(row) if kind is Campaign else row, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _row_error(kind, row, str(error)) from None
    _check(converted)
    return converted


_KEYS: Mapping[type, frozenset[str]] = {
    kind: frozenset(WIRE_NAMES.get(f.name, f.name) for f in fields(kind)) for kind in FILES.values()
}


def _third_parties(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowError("third_parties", value, 'must be a list of {"enterprise_id", "from", "to"}')
    parties = [{key: given for key, given in item.items() if given is not None and given != ""} for item in value]
    for party in parties:
        party.update({key: time_ms(f"third_parties.{key}", party[key]) for key in ("from", "to") if key in party})
    return [_with_names(party) for party in parties]


def _with_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """By the names of our types; these names themselves mean nothing on the wire."""
    known = {key: value for key, value in row.items() if key not in WIRE_NAMES}
    return {_NAMES.get(key, key): value for key, value in known.items()}


def time_ms(key: str, value: object) -> int:
    """A time of the contract's files as epoch milliseconds. Raises `RowError` that names the key."""
    milliseconds = _parse_time(value) if isinstance(value, str) else value
    if type(milliseconds) is not int or not FIRST_MS <= milliseconds <= LAST_MS:
        raise RowError(key, value, f"must be {TIME_ALLOWED}, from 2000 to 9999")
    return milliseconds


@lru_cache(maxsize=1 << 14)
def _parse_time(text: str) -> int | None:
    """UTC epoch milliseconds; a date is midnight in Asia/Shanghai; None for a time without an offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        if len(text) != len("2026-01-01"):
            return None
        moment = moment.replace(tzinfo=SHANGHAI)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _row_error(kind: type[Any], row: Mapping[str, Any], told: str) -> RowError:
    """msgspec's 'Expected `int`, got `str` - at `$.caps.per_day`' in the words of this module."""
    what, _, place = told.partition(" - at `$")
    path = [WIRE_NAMES.get(part, part) for part in place.removesuffix("`").split(".") if part]
    if missing := re.search(r"missing required field `(\w+)`", what):
        return RowError(".".join([*path, WIRE_NAMES.get(missing[1], missing[1])]), None, "is required")
    key = path[0].split("[")[0]
    return RowError(".".join(path), row.get(key), _choices(kind, key) if "enum" in what and len(path) == 1 else what)


def _choices(kind: type[Any], key: str) -> str:
    hint = str(next(f.type for f in fields(kind) if f.name == key))
    return "must be one of " + ", ".join(re.findall(r"'([a-z]+)'", hint))


# ---- what types can't say

_is_number = re.compile(r"[0-9]{1,18}").fullmatch
_is_port = re.compile(r"[0-9]{3,20}").fullmatch
_is_extension = re.compile(r"[0-9]{1,17}").fullmatch
LONGEST_FULL_PORT = 20
FILING_STATES = range(-2, 4)
HOURS = 24


def _check(row: Row) -> None:
    match row:
        case PortLease():
            _check_lease(row)
        case Filing():
            _check_filing(row)
        case Campaign():
            _check_campaign(row)


def _check_lease(row: PortLease) -> None:
    _check_port(row.access_port)
    _check_interval("authorised_to", row.authorised_from, row.authorised_to)
    _check_interval("effective_to", row.effective_from, row.effective_to)
    for party in row.third_parties:
        _check_interval("third_parties.to", party.since, party.to)
    if row.caps:
        _check_caps(row.caps.per_minute, row.caps.per_day, row.caps.hours)


def _check_filing(row: Filing) -> None:
    _check_port(row.access_port)
    if row.extension is not None:
        _check_extension(row.access_port, row.extension)
    if row.state not in FILING_STATES:
        raise RowError("state", row.state, "must be from -2 to 3")
    _check_interval("effective_to", row.effective_from, row.effective_to)


def _check_campaign(row: Campaign) -> None:
    if row.access_port is not None:
        _check_port(row.access_port)
    elif row.lessee_id is None:
        raise RowError("access_port", None, "must be there, or lessee_id")
    if row.expected_recipients < 0:
        raise RowError("expected_recipients", row.expected_recipients, "must be 0 or more")
    _check_interval("to", row.since, row.to)


def _check_port(access_port: str) -> None:
    if not _is_port(access_port):
        raise RowError("access_port", access_port, "must be 3 to 20 digits")


def _check_extension(access_port: str, extension: str) -> None:
    if not _is_extension(extension) or len(access_port) + len(extension) > LONGEST_FULL_PORT:
        raise RowError("extension", extension, "must be digits, with access_port at most 20")


def _check_interval(key: str, since_ms: int | None, to_ms: int | None) -> None:
    if since_ms is not None and to_ms is not None and to_ms <= since_ms:
        raise RowError(key, to_ms, f"must be later than its beginning, {since_ms}")


def _check_caps(per_minute: int | None, per_day: int | None, hours: tuple[int, int] | None) -> None:
    for key, cap in (("per_minute", per_minute), ("per_day", per_day)):
        if cap is not None and cap < 0:
            raise RowError(f"caps.{key}", cap, "must be 0 or more")
    if hours is not None and not (0 <= hours[0] < HOURS and 0 < hours[1] <= HOURS and hours[0] != hours[1]):
        raise RowError("caps.hours", hours, "must be [from, to], from 0 to 23, to 1 to 24, not the same")


# ---- rows against each other


def _key(row: Row) -> tuple[str | None, ...] | None:
    """What a row is the history of; None for campaigns, several of which may run at once."""
    match row:
        case PortLease():
            return (row.access_port,)
        case Filing():
            return (row.access_port, row.extension, row.signature, row.carrier)
        case Enterprise():
            return (row.enterprise_id,)
        case Campaign():
            return None


def _interval(row: Row) -> tuple[int, int]:
    since = getattr(row, "effective_from", None)
    to = getattr(row, "effective_to", None)
    return (since if since is not None else FIRST_MS, to if to is not None else LAST_MS)


def overlaps(rows: Sequence[Row]) -> Iterator[tuple[int, RowError]]:
    """Rows of one key that begin before an earlier one ends: index of the row, and what is wrong with it."""
    for history in _several(rows, _key):
        taken_to = 0
        for at in sorted(history, key=lambda at: _interval(rows[at])):
            since, to = _interval(rows[at])
            if since < taken_to:
                key = ", ".join(part for part in _key(rows[at]) or () if part is not None)
                shown = getattr(rows[at], "effective_from", None)
                yield at, RowError("effective_from", shown, f"overlaps another row of {key}")
            taken_to = max(taken_to, to)


def _several(rows: Sequence[Row], key: Callable[[Any], object]) -> Iterable[list[int]]:
    """Indices of the rows that share a key which is not None, for keys of more than one row."""
    first: dict[object, int] = {}
    shared: dict[object, list[int]] = {}
    for at, row in enumerate(rows):
        if (value := key(row)) is not None and first.setdefault(value, at) != at:
            shared.setdefault(value, [first[value]]).append(at)
    return shared.values()


def _several_names(registry: Registry) -> Iterator[str]:
    """A warning for each full port on which two names are in force at the same time for a common carrier."""
    open_ports = {lease.access_port for lease in registry.ports if lease.allow_self_extension}

    def full_port(filing: Filing) -> str | None:
        if filing.state != IN_FORCE or (filing.extension is None and filing.access_port in open_ports):
            return None
        return filing.access_port + (filing.extension or "")

    for indices in _several(registry.filings, full_port):
        filings = [registry.filings[at] for at in indices]
        clash = next((pair for pair in combinations(filings, 2) if _clash(*pair)), None)
        if clash is not None:
            names = " and ".join(repr(filing.signature) for filing in clash)
            yield f"{full_port(clash[0])}: {names} are in force at the same time"


def _clash(one: Filing, other: Filing) -> bool:
    carriers = {one.carrier, other.carrier}
    (since, to), (other_since, other_to) = _interval(one), _interval(other)
    is_common = (None in carriers or len(carriers) == 1) and since < other_to and other_since < to
    return is_common and one.signature != other.signature
