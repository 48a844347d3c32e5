"""Backtests: what files may look like, which tick a row is of, and that a file's output depends on its past alone."""

import gzip
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from detectors.batch import Floats, Ints
from streams.backtest import counts, picture, runs, stamps, table, ticks
from streams.backtest.runs import Judged
from streams.backtest.table import Problems, Rows, TableError, read
from streams.backtest.ticks import Grid, Series, TickError
from streams.cli import app

SEPTEMBER_MS = 1_441_036_800_000  # 2015-09-01 in Shanghai
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def parsed(*texts: str) -> list[int | None]:
    times = stamps.parse(np.array([text.encode() for text in texts]))
    return [None if time == stamps.NO_TIME else time - SEPTEMBER_MS for time in times.tolist()]


# ---- stamps


@pytest.mark.parametrize(
    ("text", "later_ms"),
    [
        ("2015-09-01T00:00:00+08:00", 0),
        ("2015-08-31T16:00:00Z", 0),
        ("2015-08-31 16:00:00+0000", 0),
        ("2015-08-31 12:30-03:30", 0),
        ("2015-09-01T00:00:00.250 +08", 250),
        ("2015-09-01T00:00:00.123456789", 123),
        ("2015-09-01 00:00:05", 5_000),
        ("2015-09-01 00:01", MINUTE_MS),
        ("2015-09-01", 0),
        ("2015/9/1 1:00", HOUR_MS),
        ("1441036800", 0),
        ("1441036800.5", 500),
        ("1441036800000", 0),
        ("1441036800001", 1),
        ("2016-02-29", 181 * DAY_MS),
        ("2015-02-29", None),
        ("2015-13-01", None),
        ("2015-09-01 24:00", None),
        ("2015-09-01 00:60", None),
        ("2015-09-01 00:00:60", None),
        ("1899-12-31", None),
        ("2200-01-02", None),
        ("144103680000000", None),
        ("9" * 400, None),
        ("yesterday", None),
        ("", None),
        ("2015-09-01\0", 0),  # numpy's texts end where the zeros do
        ("2015-09-01T00:00:00Europe/Berlin", None),
    ],
)
def test_times_that_files_write(text: str, later_ms: int | None) -> None:
    assert parsed(text) == [later_ms]
    assert parsed("abc", text, "2015-09-01", text) == [None, later_ms, 0, later_ms], "in any company"


moments = st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 30))  # noqa: DTZ001 - zones are drawn apart
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.lists(st.tuples(moments, offsets, st.sampled_from("T "), st.sampled_from(["seconds", "milliseconds"]))))
def test_iso_times_are_those_of_the_standard_library(drawn: list[tuple[datetime, timezone, str, str]]) -> None:
    texts = [moment.replace(tzinfo=zone).isoformat(sep, precision) for moment, zone, sep, precision in drawn]
    expected = [round(datetime.fromisoformat(text).timestamp() * 1_000) for text in texts]
    assert stamps.parse(np.array([text.encode() for text in texts], "S40")).tolist() == expected


SAMPLES = [
    *("2015-09-01T00:00:00+08:00", "2015-09-01 00:00:00", "2015-09-01T00:00:00.000Z", "2015-09-01 00:00:00.0-03:30"),
    *("2015-09-01 00:00", "2015-09-01", "2015/9/1 0:00", "1441036800", "1441036800000", "2015-09-01T00:00+0800"),
]


@pytest.mark.parametrize("sample", SAMPLES)
@given(time_ms=st.integers(631_152_000_000, 4_102_444_800_000))
def test_a_time_in_the_form_of_another_is_that_time(sample: str, time_ms: int) -> None:
    text = stamps.like(sample.encode(), time_ms)
    assert stamps.parse(np.array([text])).tolist() == [time_ms]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_form_of_a_stamp_is_kept(sample: str) -> None:
    time_ms = stamps.parse(np.array([sample.encode()]))[0]
    assert stamps.like(sample.encode(), int(time_ms)).decode() == sample
    later = stamps.like(sample.encode(), int(time_ms) + 11 * DAY_MS).decode()
    assert len(later) - len(sample) in {0, sample.count("/9/1")}


# ---- files


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def content(rows: Rows) -> list[tuple[int, bytes, float]]:
    later = (rows.time_ms - SEPTEMBER_MS).tolist()
    return list(zip(later, rows.stamp.tolist(), rows.value.tolist(), strict=True))


PLAIN = [(0, b"2015-09-01 00:00", 1.0), (5 * MINUTE_MS, b"2015-09-01 00:05", 2.5)]


@pytest.mark.parametrize(
    "text",
    [
        "timestamp,value\n2015-09-01 00:00,1\n2015-09-01 00:05,2.5\n",
        "timestamp,value\r\n2015-09-01 00:00,1\r\n\r\n2015-09-01 00:05,2.5",
        "\ufefftimestamp,value\n2015-09-01 00:00,1\n2015-09-01 00:05,2.5\n",
        "value,port,Timestamp\n1,a,2015-09-01 00:00\n2.5,b,2015-09-01 00:05\n",
        '"timestamp","value","note"\n"2015-09-01 00:00","1","a, b"\n"2015-09-01 00:05","2.5",""\n',
        'timestamp,value,note\n2015-09-01 00:00,1,"never closed\n2015-09-01 00:05,2.5,\n',
        "timestamp; value\n2015-09-01 00:00 ; 1\n2015-09-01 00:05; 2.50\n",
        "timestamp\tvalue\n2015-09-01 00:00\t1e0\n2015-09-01 00:05\t2.5\n",
        "2015-09-01 00:00,1\n2015-09-01 00:05,2.5\n",
        "timestamp,value\n2015-09-01 00:05,2.5\n2015-09-01 00:00,1\n",
        b"timestamp,value,name\n2015-09-01 00:00,1,\xff\xfe\0\n2015-09-01 00:05,2.5,\xd6\xd0\n",
    ],
)
def test_files_of_all_makes_are_read(tmp_path: Path, text: str | bytes) -> None:
    problems = Problems()
    assert content(read(written(tmp_path / "a.csv", text), problems)) == PLAIN
    assert problems.count == 0
    packed = gzip.compress(text.encode() if isinstance(text, str) else text)
    assert content(read(written(tmp_path / "a.csv.gz", packed), problems)) == PLAIN


def test_what_is_wrong_with_a_row_is_told_by_its_line(tmp_path: Path) -> None:
    rows = [
        *("timestamp,value", "2015-09-01 00:00,1", "2015-09-01 00:05,abc", "now,2", "2015-09-01 00:10,", "", "?"),
        *("2015-09-01 00:15,inf", "2015-09-01 00:20,nan", "2015-09-01 00:25,\x1b[2J" + "z" * 99, "x,y", "z,1"),
    ]
    problems = Problems()

    found = read(written(tmp_path / "a.csv", "\n".join(rows)), problems)

    assert [(stamp[-2:], value) for _, stamp, value in content(found) if not math.isnan(value)] == [(b"00", 1.0)]
    assert found.stamp.tolist() == [b"2015-09-01 00:%02d" % minute for minute in range(0, 30, 5)]
    assert problems.count == 7
    allowed = "ISO 8601, or epoch seconds or milliseconds, from 1900 to 2199"
    assert list(problems.told()) == [
        'line 3: value: "abc" is not a number',
        f'line 4: timestamp: "now" is no time: {allowed}',
        f'line 7: timestamp: "?" is no time: {allowed}',
        'line 8: value: "inf" is not finite',
        f'line 10: value: "\\u001b[2J{"z" * 36}..." is not a number',
        "2 more rows have problems",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no row has both"),
        ("timestamp,value\n", "no row has both"),
        ("timestamp,value\n2015-09-01,\n", "no row has both"),
        ("timestamp,value\nnever,1\n", "no row has both"),
        ("time,count\n2015-09-01,1\n", 'line 1 must name the columns timestamp and value, it is "time,count"'),
        ("a" * 2_000_000, "no row has both"),
    ],
)
def test_files_without_anything_to_judge_say_so(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(TableError) as caught:
        read(written(tmp_path / "a.csv", text), Problems())
    assert str(caught.value).startswith(why)


def test_an_archive_cut_short_says_so(tmp_path: Path) -> None:
    packed = gzip.compress(b"timestamp,value\n2015-09-01,1\n")
    with pytest.raises(TableError, match="is not whole"):
        read(written(tmp_path / "a.csv.gz", packed[:-9]), Problems())


def test_a_line_without_end_is_left_out_and_told(tmp_path: Path) -> None:
    rows = ["timestamp,value", "2015-09-01 00:00,1", "9" * 3_000_000, "2015-09-01 00:05,2.5", "2015-09-01,x"]
    rows.append('"' + "8" * 999_000)  # longer than the csv module bears
    problems = Problems()
    assert content(read(written(tmp_path / "a.csv", "\n".join(rows)), problems))[::2] == PLAIN
    overlong, value, quoted = problems.told()
    assert overlong == "line 3: is longer than 1,000,000 bytes"
    assert value == 'line 5: value: "x" is not a number'
    assert quoted.startswith('line 6: timestamp: "\\"888')


tokens = st.sampled_from(
    [
        *(b",", b"\n", b"\r\n", b'"', b";", b" ", b"\0", b"\xff", b"-", b":", b"T", b"Z", b"+08:00", b"1e400", b"nan"),
        *(b"2015-09-01", b"00:00", b"1441036800", b"9999-12-31", b"timestamp", b"value", b".5", b"\n2015-09-02,7\n"),
    ]
)


@given(st.lists(tokens, max_size=60).map(b"".join), st.booleans())
def test_whatever_is_in_a_file_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, has_header: bool
) -> None:
    file = written(tmp_path_factory.getbasetemp() / "any.csv", (b"timestamp,value\n" if has_header else b"") + text)
    with suppress(TableError):
        rows = read(file, Problems())
        assert (rows.time_ms >= stamps.EARLIEST_MS).all()
        assert not np.isinf(rows.value).any()
        one = Series.of(rows, None)
        assert (np.diff(one.tick) > 0).all()
        for stretch in one.stretches():
            assert len(stretch.stamps()) == len(stretch.observed()) == len(stretch)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.integers(3, 12))
def test_numbers_are_short_and_as_exact_as_asked(drawn: list[float], digits: int) -> None:
    for number, rounded in zip(drawn, table.rounded(np.array(drawn), digits).tolist(), strict=True):
        if number.is_integer() and abs(number) < table.WHOLE_BELOW:
            assert rounded == number
        elif abs(rounded) < table.LARGEST:
            assert rounded == float(f"{rounded:.{digits - 1}e}"), "has no more digits than that"
            assert abs(rounded - number) <= 0.5000001 * 10.0 ** (1 - digits) * abs(number)


def test_what_is_written() -> None:
    scores = np.array([[99.5, np.nan], [80.123456, np.nan], [1e300, np.nan], [0.0, np.nan], [1.0, 0.0]])
    assert table.HEADER == b"timestamp,observed,expected,low,high,surprise,alert\n"
    assert table.lines([b"a", b"b"], np.array([0.1 + 0.2, 100.0]), scores) == (
        b"a,0.3,99.5,80.1235,1e+300,0,1\nb,100,,,,,0\n"
    )


# ---- ticks


@pytest.mark.parametrize(("text", "expected_ms"), [("10s", 10_000), ("90s", 90_000), ("5m", 300_000), ("1d", DAY_MS)])
def test_ticks_as_people_write_them(text: str, expected_ms: int) -> None:
    assert ticks.tick_ms(text) == expected_ms
    assert ticks.told(expected_ms) == text


@pytest.mark.parametrize("text", ["9s", "2d", "5", "5 min", "0.5h", "m", "-5m", "", "٥m"])
def test_a_wrong_tick_names_itself_and_what_is_allowed(text: str) -> None:
    with pytest.raises(TickError) as caught:
        ticks.tick_ms(text)
    assert str(caught.value) == f"{text!r}: allowed is from 10s to 1d, a whole number of s, m, h or d"


def evenly(count: int, step_ms: int, start_ms: int = SEPTEMBER_MS) -> Ints:
    return start_ms + step_ms * np.arange(count, dtype=np.int64)


def without(times: Ints, share: float) -> Ints:
    return times[np.random.default_rng(1).random(len(times)) >= share]


@pytest.mark.parametrize(
    ("times", "tick"),
    [
        (evenly(50, 300_000), "5m"),
        (evenly(50, DAY_MS), "1d"),
        (evenly(50, 7 * DAY_MS), "1d"),
        (evenly(50, 1_000), "10s"),
        (evenly(1, 1), "10s"),
        (evenly(50, 61_000), "61s"),
        (evenly(50, 60_013), "1m"),
        (evenly(50, 420_000), "7m"),
        (without(evenly(99, 300_000), 0.4), "5m"),
        (without(evenly(99, 3_600_000), 0.4), "1h"),
        (evenly(99, 300_000) + np.random.default_rng(2).integers(-40_000, 40_000, 99), "5m"),
        (np.sort(np.concatenate([evenly(50, 300_000), evenly(50, 300_000) + 1_000])), "5m"),
    ],
)  # fmt: skip
def test_the_tick_of_a_series_is_inferred(times: Ints, tick: str) -> None:
    assert ticks.told(Grid.of(times).tick_ms) == tick


def test_a_row_a_little_early_or_late_is_of_its_own_tick() -> None:
    at = [datetime(2015, 9, 1, 10, 5 * i, tzinfo=UTC) + timedelta(seconds=late) for i, late in enumerate([1, -1] * 6)]
    times = np.array([round(time.timestamp() * 1_000) for time in at])

    grid = Grid.of(times)

    assert grid.is_regular
    assert np.diff(grid.ticks(times)).tolist() == [1] * 11


@given(
    st.lists(st.floats(-0.24, 0.24), min_size=2, max_size=200),
    st.sampled_from([10_000, 61_000, 300_000, HOUR_MS, DAY_MS]),
    st.integers(0, DAY_MS),
)
def test_jitter_makes_no_empty_and_no_double_tick(late: list[float], tick_ms: int, start_ms: int) -> None:
    times = evenly(len(late), tick_ms, SEPTEMBER_MS + start_ms) + (np.array(late) * tick_ms).astype(np.int64)
    grid = Grid.of(times, tick_ms)
    assume(grid.is_regular)  # few rows may all but one be late
    assert np.diff(grid.ticks(times)).tolist() == [1] * (len(late) - 1)


def test_days_and_hours_are_those_of_shanghai() -> None:
    times = evenly(96, HOUR_MS, SEPTEMBER_MS + 1_800_000)
    assert Counter(Grid.of(times, DAY_MS).ticks(times).tolist()) == Counter(
        {SEPTEMBER_MS // DAY_MS + 1 + day: 24 for day in range(4)}
    )
    grid = Grid.of(times)
    assert grid.start_ms(int(grid.ticks(times)[0])) == SEPTEMBER_MS
    assert grid.time_ms(int(grid.ticks(times)[0])) == times[0]


def series(times: Sequence[int] | Ints, values: Sequence[float] | Floats, tick_ms: int | None = None) -> Series:
    in_order = np.argsort(times, kind="stable")
    time_ms = np.asarray(times, np.int64)[in_order]
    stamp = np.array([b"%d" % time for time in time_ms.tolist()])
    return Series.of(Rows(time_ms, stamp, np.asarray(values, np.float64)[in_order]), tick_ms)


@pytest.mark.parametrize(
    ("values", "observed"),
    [
        ([1, 2, 3, 4], [3, 7]),
        ([1, 2, 3, 4.5], [3, 3.75]),
        ([1.5, 2, 3, 4], [1.75, 3.5]),
        ([1, 2, -3, 4], [3, 0.5]),
        ([1, np.nan, np.nan, np.nan], [1, np.nan]),
        ([1e308, 1e308, -1e308, -1.5e308], [table.LARGEST, -table.LARGEST / 2]),
    ],
)
def test_counts_of_a_tick_add_up_and_levels_do_not(values: list[float], observed: list[float]) -> None:
    times = [SEPTEMBER_MS, SEPTEMBER_MS, SEPTEMBER_MS + MINUTE_MS, SEPTEMBER_MS + MINUTE_MS]
    assert series(times, values, MINUTE_MS).observed.tolist() == pytest.approx(observed, nan_ok=True)


def test_a_missing_tick_is_written_as_the_file_would() -> None:
    texts = [b"2015-09-01 00:04", b"2015-09-01 00:09", b"2015-09-01 00:24", b"2015-09-01 00:29"]
    one = Series.of(Rows(stamps.parse(np.array(texts)), np.array(texts), np.arange(4.0)), None)

    (stretch,) = one.stretches()

    between = [b"2015-09-01 00:14", b"2015-09-01 00:19"]
    assert stretch.stamps() == [*texts[:2], *between, *texts[2:]]
    assert stretch.observed().tolist() == pytest.approx([0, 1, np.nan, np.nan, 2, 3], nan_ok=True)


@pytest.mark.parametrize(("days", "stretches"), [(28, 1), (29, 2), (16_000, 2)])
def test_a_gap_longer_than_the_memory_is_a_new_beginning(days: int, stretches: int) -> None:
    times = np.concatenate([evenly(20, 300_000, 0), evenly(20, 300_000, days * DAY_MS)])
    found = list(series(times, np.ones(40)).stretches())
    assert len(found) == stretches
    assert sum(map(len, found)) == (40 if stretches > 1 else days * 288 + 20)


def test_a_tick_out_of_proportion_is_refused() -> None:
    with pytest.raises(TableError) as caught:
        series(evenly(1_000, 20 * DAY_MS, 0), np.ones(1_000), 10_000)
    assert str(caught.value) == "1,000 rows would make 172,627,201 ticks of 10s: --tick is too short"


irregular = st.lists(st.integers(0, 40 * 3_600), min_size=ticks.PREFIX + 1, max_size=300, unique=True)


@given(irregular, st.data())
def test_what_comes_later_changes_nothing(seconds: list[int], data: st.DataObject) -> None:
    seconds = sorted(seconds)
    values = np.array(data.draw(st.lists(st.sampled_from([0, 1, 7, 2.5, -1]), min_size=300, max_size=300)))
    times = SEPTEMBER_MS + 1_000 * np.array(seconds)
    cut = data.draw(st.integers(ticks.PREFIX, len(times)))

    whole, part = series(times, values[: len(times)]), series(times[:cut], values[:cut])

    closed = len(part.tick) - 1  # the last tick may still get rows
    assert whole.grid == part.grid
    assert whole.tick[:closed].tolist() == part.tick[:closed].tolist()
    assert whole.stamp[:closed].tolist() == part.stamp[:closed].tolist()
    assert whole.observed[:closed].tolist() == part.observed[:closed].tolist()


# ---- runs


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 3_000), st.sampled_from([60_000, 300_000])), max_size=20)
)
def test_runs_take_every_stretch_once_and_no_more_steps_than_apart(drawn: list[tuple[int, int, int]]) -> None:
    every = [series([start * tick_ms, (start + length) * tick_ms], [1, 1], tick_ms) for start, length, tick_ms in drawn]
    stretches = [stretch for one in every for stretch in one.stretches()]
    found = list(runs.runs(stretches))
    assert Counter(id(stretch) for run in found for stretch in run.stretches) == Counter(map(id, stretches))
    assert sum(run.stop - run.start for run in found) <= sum(map(len, stretches))
    for run in found:
        assert len({stretch.series.grid.tick_ms for stretch in run.stretches}) == 1
        assert min(stretch.start for stretch in run.stretches) == run.start
        assert max(stretch.stop for stretch in run.stretches) == run.stop


def test_a_thousand_series_of_one_time_are_one_run() -> None:
    many = [series(evenly(50, 300_000, SEPTEMBER_MS + 300_000 * late), np.ones(50)) for late in range(5)] * 200
    (run,) = runs.runs(stretch for one in many for stretch in one.stretches())
    assert (len(run.stretches), run.stop - run.start) == (1_000, 54)


def test_a_picture_keeps_every_spike_of_a_long_series() -> None:
    values = np.full(picture.COLUMNS * 10, 5.0)
    values[[1_234, 23_456]] = 99, 0
    (stretch,) = series(evenly(len(values), 10_000), values).stretches()
    scores = np.full((5, len(values)), 1.0)
    scores[3:, :] = 0
    scores[3:, 23_456] = 40, 1

    curves = picture.curves_of([Judged(stretch, scores)])

    assert len(curves.time) == picture.COLUMNS + 1
    assert curves.time[0] == np.datetime64("2015-09-01T00:00")
    assert np.isnan(curves.most[-1]), "what is behind is not joined to it"
    assert np.flatnonzero(curves.most > 5).tolist() == [123]
    assert np.flatnonzero(curves.least < 5).tolist() == [2_345]
    assert np.flatnonzero(curves.surprise > 0).tolist() == np.flatnonzero(curves.alert).tolist() == [2_345]


# ---- the command


def backtest(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["backtest", "counts", *map(str, arguments)])


def day_of(seed: int, days: int = 2, tick: str = "5m") -> list[str]:
    """Lines of a file: a daily wave of counts with a spike on the last day, some rows missing."""
    rng = np.random.default_rng(seed)
    tick_ms = ticks.tick_ms(tick)
    times = evenly(days * DAY_MS // tick_ms, tick_ms, SEPTEMBER_MS + 60_000 * seed)
    level = 50 + 30 * np.sin(2 * np.pi * times / DAY_MS)
    value = rng.poisson(np.where(np.arange(len(times)) == len(times) - 50, 20, 1) * level)
    kept = rng.random(len(times)) > 0.05
    kept[[0, -50, -1]] = True
    stamp = [datetime.fromtimestamp(time / 1_000, timezone(timedelta(hours=8))) for time in times[kept].tolist()]
    return [f"{at:%Y-%m-%d %H:%M:%S},{count}" for at, count in zip(stamp, value[kept].tolist(), strict=True)]


def saved(path: Path, rows: Sequence[str]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    return written(path, "\n".join(["timestamp,value", *rows]) + "\n")


def test_one_file_goes_to_stdout_with_a_row_per_tick(tmp_path: Path) -> None:
    rows = day_of(1)
    done = backtest(saved(tmp_path / "a.csv", rows))

    assert done.exit_code == 0
    header, *lines = done.stdout.splitlines()
    assert header == "timestamp,observed,expected,low,high,surprise,alert"
    assert len(lines) == 2 * 288
    seen = [line.split(",") for line in lines]
    assert [",".join(fields[:2]) for fields in seen if fields[1]] == rows
    assert {fields[-1] for fields in seen} == {"0", "1"}
    assert all(fields[1:6] == [""] * 5 for fields in seen if not fields[1])
    assert max(len(number) for fields in seen for number in fields[1:]) <= 12
    assert max(seen, key=lambda fields: float(fields[5] or 0))[0] == lines[-50].split(",")[0], "the spike"
    missing = 2 * 288 - len(rows)
    alerts = "".join(fields[-1] for fields in seen)
    episodes = f"0{alerts}".count("01")
    assert episodes >= 1
    told = done.stderr.replace("\n", "")
    assert f"a.csv: 576 ticks of 5m, {missing} missing, {episodes} episode" in told
    assert f"highest surprise {max(float(fields[5] or 0) for fields in seen):.1f} at {lines[-50][:19]}, " in told


def test_the_output_up_to_a_moment_depends_on_nothing_later(tmp_path: Path) -> None:
    rows = day_of(2)
    whole = backtest(saved(tmp_path / "a.csv", rows)).stdout
    for cut in (ticks.PREFIX, 301, len(rows) - 40, len(rows) - 1):
        part = backtest(saved(tmp_path / "a.csv", rows[:cut])).stdout
        assert len(part) < len(whole)
        assert whole.startswith(part), cut


def test_the_output_of_a_file_is_the_same_in_any_company(tmp_path: Path) -> None:
    files = [
        saved(tmp_path / "in" / f"{seed % 3}" / f"{seed}.csv", day_of(seed, 1 + seed % 2, "5m" if seed % 5 else "10m"))
        for seed in range(50)
    ]
    done = backtest(tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "50 files: " in done.stderr

    for file in files[:6]:
        together = tmp_path / "out" / file.relative_to(tmp_path / "in")
        assert backtest(file, "--out", tmp_path / "alone.csv").exit_code == 0
        assert (tmp_path / "alone.csv").read_bytes() == together.read_bytes()
    assert len(list((tmp_path / "out").rglob("*.csv"))) == 50


def test_batches_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        saved(tmp_path / "in" / f"{seed}.csv", day_of(seed))
    backtest(tmp_path / "in", "--out", tmp_path / "one")
    monkeypatch.setattr(counts, "BATCH_TICKS", 1_000)
    backtest(tmp_path / "in", "--out", tmp_path / "many")
    for seed in range(6):
        assert (tmp_path / "one" / f"{seed}.csv").read_bytes() == (tmp_path / "many" / f"{seed}.csv").read_bytes()


def test_every_file_gets_its_picture(tmp_path: Path) -> None:
    far = ["1970-01-01 00:00,1", "2100-01-01 00:00,1e308", "2100-01-01 00:05,-1e308", "2100-01-01 00:10,"]
    for name, rows in {"a": day_of(1), "$x^$ 号码": day_of(2), "one": ["2015-09-01,1"], "far": far}.items():
        saved(tmp_path / "in" / f"{name}.csv", rows)

    done = backtest(tmp_path / "in", "--out", tmp_path / "out", "--plot", tmp_path / "pictures")

    assert done.exit_code == 0
    pictures = {file.name: file.read_bytes() for file in (tmp_path / "pictures").iterdir()}
    assert pictures.keys() == {"a.png", "$x^$ 号码.png", "one.png", "far.png"}
    assert {content[:8] for content in pictures.values()} == {b"\x89PNG\r\n\x1a\n"}


def test_a_folder_is_read_anew_without_what_was_written_into_it(tmp_path: Path) -> None:
    saved(tmp_path / "a.csv", day_of(1))
    for _ in range(2):
        assert backtest(tmp_path, "--out", tmp_path / "scores").exit_code == 0
    assert [path.name for path in (tmp_path / "scores").rglob("*")] == ["a.csv"]


def test_a_file_that_holds_nothing_is_told_and_the_others_are_judged(tmp_path: Path) -> None:
    saved(tmp_path / "in" / "good.csv", day_of(1))
    written(tmp_path / "in" / "empty.csv", "")
    written(tmp_path / "in" / "bad.csv.gz", "no archive")

    done = backtest(tmp_path / "in", "--out", tmp_path / "out")

    assert done.exit_code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.csv"]
    told = done.stderr.replace("\n", "")
    assert "empty.csv: not judged: no row has both a timestamp" in told
    assert "bad.csv.gz: not judged: " in told


def test_bad_rows_are_told_and_do_no_harm(tmp_path: Path) -> None:
    rows = day_of(1)
    expected = backtest(saved(tmp_path / "a.csv", rows)).stdout
    done = backtest(saved(tmp_path / "a.csv", [*rows[:16], "when?,3", *rows[16:]]))
    assert (done.exit_code, done.stdout) == (0, expected)
    assert 'line 18: timestamp: "when?" is no time' in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "row", ["2015-09-01 00:00:00,5", "2015-09-01 00:00:00,-1e308", "1970-01-01,1", "2199-12-30,1e308"]
)
def test_odd_files_of_few_rows_are_judged(tmp_path: Path, row: str) -> None:
    assert backtest(saved(tmp_path / "a.csv", [row])).stdout.splitlines()[1].startswith(row.partition(",")[0] + ",")
    done = backtest(saved(tmp_path / "a.csv", [*day_of(1), row]))
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 578 if "2015" not in row else 577)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such.csv"], "does not exist"),
        (["a.csv", "--tick", "2d"], "'2d': allowed is from 10s to 1d"),
        (["a.csv", "b.csv"], "2 inputs need --out, a folder to write to"),
        (["in"], "2 inputs need --out, a folder to write to"),
        (["a.csv", "--out", "a.csv"], "is an input, and would be written over"),
        (["in", "--out", "in"], "is an input, and would be written over"),
        (["a.csv", "--out", "same.csv"], "is an input, and would be written over"),
        (["a.csv", "--plot", "a.csv"], "is an input, and would be written over"),
        (["a.csv", "--out", "x", "--plot", "x"], "is both --out and --plot"),
        (["a.csv", "b.csv", "--out", "b.csv"], "is a file, and several inputs need a folder"),
        (["a.csv", "in/a.csv", "--out", "out"], "would be written to it"),
        (["empty", "--out", "out"], "there is no .csv and no .csv.gz file in it"),
    ],
)
def test_paths_that_do_not_go_together_are_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "in/a.csv", "in/b.csv"):
        saved(tmp_path / name, ["2015-09-01,1"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "same.csv").hardlink_to(tmp_path / "a.csv")

    done = backtest(*arguments)

    assert (done.exit_code, done.stdout) == (2, "")
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert (tmp_path / "a.csv").read_text() == "timestamp,value\n2015-09-01,1\n"
