"""Files through the pipeline: one account for every line, and a state that goes on where another replay stopped."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.pipeline import Pipeline
from detectors.registry import Registry
from streams.learn import HistoryError, learn_files
from streams.registry import load_folder
from streams.replay import COLD, ReplayError, Span, run
from streams.simulate import simulate, write
from streams.state_file import StateFileError, load, partition_of, save


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated hour with incidents and broken records, and the state file of its history."""
    folder = tmp_path_factory.mktemp("hour")
    write(simulate("festival-hour", seed=3, scale=0.3), folder)
    learn_files([folder / "history.jsonl"], load_folder(folder / "registry"), folder / "learnt")
    return folder


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_every_line_is_accounted_for(hour: Path, tmp_path: Path) -> None:
    registry = load_folder(hour / "registry")
    summary = run(
        [hour / "submits.jsonl"],
        registry,
        tmp_path / "alerts.jsonl",
        dlq=tmp_path / "rejected.jsonl",
        state_in=hour / "learnt",
    )
    assert list(summary) == [
        *("in", "counted", "late", "misclocked", "duplicate", "rejected", "alerts"),
        *("first_event_ms", "last_event_ms", "seconds", "notes"),
    ]
    assert summary["in"] == len((hour / "submits.jsonl").read_bytes().splitlines())
    rejected = lines(tmp_path / "rejected.jsonl")
    assert len(rejected) == sum(summary["rejected"].values()) > 0
    others = summary["counted"] + summary["late"] + summary["misclocked"] + summary["duplicate"]
    assert summary["in"] == others + len(rejected)
    raw = (hour / "submits.jsonl").read_bytes().split(b"\n")
    for letter in rejected:
        if "value" in letter:
            assert raw[letter["offset"] - 1].rstrip(b"\r") == letter["value"].encode()
    opened = [alert["rule"] for alert in lines(tmp_path / "alerts.jsonl") if alert["state"] == "open"]
    assert {rule: opened.count(rule) for rule in opened} == summary["alerts"]
    assert summary["notes"] == []


def test_two_replays_with_a_state_between_them_say_what_one_says(hour: Path, tmp_path: Path) -> None:
    registry = load_folder(hour / "registry")
    submits = (hour / "submits.jsonl").read_bytes().splitlines(keepends=True)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_bytes(b"".join(submits[:20_001]))
    second.write_bytes(b"".join(submits[20_001:]))
    whole = run([first, second], registry, tmp_path / "whole", state_in=hour / "learnt")
    early = run([first], registry, tmp_path / "a", state_in=hour / "learnt", state_out=tmp_path / "state")
    late = run([second], registry, tmp_path / "b", state_in=tmp_path / "state")

    def unplaced(path: Path) -> list[Any]:
        return [alert | {"source": None} for alert in lines(path)]  # the files have other names

    assert unplaced(tmp_path / "a") + unplaced(tmp_path / "b") == unplaced(tmp_path / "whole")
    assert (early["in"], late["in"]) == (20_001, len(submits) - 20_001)
    for count in ("counted", "late", "misclocked", "duplicate"):
        assert early[count] + late[count] == whole[count], count
    for count in ("rejected", "alerts"):
        assert Counter(early[count]) + Counter(late[count]) == Counter(whole[count]), count
    assert (early["first_event_ms"], late["last_event_ms"]) == (whole["first_event_ms"], whole["last_event_ms"])


def test_only_the_asked_span_of_event_time_is_replayed(hour: Path, tmp_path: Path) -> None:
    registry = load_folder(hour / "registry")
    whole = run([hour / "submits.jsonl"], registry, tmp_path / "alerts.jsonl")
    middle = whole["first_event_ms"] + 20 * 60_000
    early = run([hour / "submits.jsonl"], registry, tmp_path / "early", span=Span(to_ms=middle))
    late = run([hour / "submits.jsonl"], registry, tmp_path / "late", span=Span(from_ms=middle))
    assert early["last_event_ms"] < middle <= late["first_event_ms"]
    assert early["counted"] > 1_000 < late["counted"]


def test_without_history_it_says_why_there_are_no_volume_alerts(hour: Path, tmp_path: Path) -> None:
    summary = run([hour / "submits.jsonl"], load_folder(hour / "registry"), tmp_path / "alerts.jsonl")
    assert summary["notes"] == [COLD]
    assert not [rule for rule in summary["alerts"] if rule.startswith("volume")]


def test_what_was_open_in_the_state_is_closed_though_nothing_more_comes(hour: Path, tmp_path: Path) -> None:
    registry = load_folder(hour / "registry")
    (tmp_path / "empty.jsonl").touch()
    run([hour / "submits.jsonl"], registry, tmp_path / "whole", state_in=hour / "learnt")
    run([hour / "submits.jsonl"], registry, tmp_path / "a", state_in=hour / "learnt", state_out=tmp_path / "state")
    run([tmp_path / "empty.jsonl"], registry, tmp_path / "b", state_in=tmp_path / "state")
    assert len(lines(tmp_path / "a")) + len(lines(tmp_path / "b")) == len(lines(tmp_path / "whole"))


@pytest.mark.parametrize("option", ["out", "dlq", "state_out"])
def test_a_file_to_replay_is_never_written_over(tmp_path: Path, option: str) -> None:
    submits = tmp_path / "submits.jsonl"
    submits.write_bytes(b"{}\n")
    (tmp_path / "link").symlink_to(submits)
    outputs: dict[str, Any] = {"out": tmp_path / "alerts.jsonl"} | {option: tmp_path / "link"}
    with pytest.raises(ReplayError, match="link: is one of the files to replay"):
        run([submits], Registry(), **outputs)
    assert submits.read_bytes() == b"{}\n"


def test_lines_end_as_they_like_and_a_huge_one_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.replay.CHUNK_BYTES", 1_000)
    monkeypatch.setattr("streams.replay.LONGEST_KEPT", 100_000)
    submits = tmp_path / os.fsdecode(b"sub\xffmits.jsonl")
    submits.write_bytes(b'\xef\xbb\xbf{"n":1}\r\n' + b"x" * 1_000_000 + b'\n\n{"n":4}')
    summary = run([submits], Registry(), tmp_path / "alerts", dlq=tmp_path / "rejected")
    assert summary["rejected"] == {"empty": 1, "missing-field": 2, "too-large": 1}
    rejected = lines(tmp_path / "rejected")
    assert [(letter["topic"], letter["offset"]) for letter in rejected] == [
        ("sub\ufffdmits.jsonl", n) for n in range(1, 5)
    ]
    assert len(rejected[1]["value"]) < 102_000
    assert [letter["value"] for letter in rejected[::3]] == ['\ufeff{"n":1}', '{"n":4}']


def test_an_empty_file_is_no_error(hour: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    summary = run([tmp_path / "empty.jsonl"], load_folder(hour / "registry"), tmp_path / "alerts.jsonl")
    assert (summary["in"], summary["first_event_ms"], summary["alerts"]) == (0, None, {})


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"something else")
    with pytest.raises(StateFileError, match="not a portwatch state"):
        load(tmp_path / "state", Pipeline())


def test_saving_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")
    save(Pipeline().start("t", 0), path)
    assert load(path, Pipeline()).next_offset == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_history_with_a_bad_line_names_it(tmp_path: Path, hour: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text('{"access_port":"10690010","start_ms":1762736400000,"submits":3}\n{"access_port":5}\n')
    with pytest.raises(HistoryError, match=r"history\.jsonl:2: .*access_port"):
        learn_files([history], load_folder(hour / "registry"), tmp_path / "state")


@pytest.mark.parametrize(
    "line",
    [
        b'{"access_port":"10690010","start_ms":1762736400000,"submits":-1}',
        b'{"access_port":"10690010","start_ms":1762736400000,"submits":50000000000000000000}',
        b'{"access_port":"10690010","start_ms":1762736400,"submits":1}',
        b'{"access_port":"10690010","start_ms":17627364000000000000,"submits":1}',
        b'{"access_port":"1069001x","start_ms":1762736400000,"submits":1}',
        b'{"access_port":"\xff","start_ms":1762736400000,"submits":1}',
        b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b"",
    ],
)
def test_no_count_that_could_not_be_is_learnt(tmp_path: Path, line: bytes) -> None:
    history = tmp_path / "history.jsonl"
    history.write_bytes(line + b"\n")
    with pytest.raises(HistoryError, match=r"history\.jsonl:1: "):
        learn_files([history], Registry(), tmp_path / "state")


def test_what_a_worker_counted_without_a_port_is_no_history(tmp_path: Path) -> None:
    history = tmp_path / "panes.jsonl"
    count = '{"access_port":"%s","start_ms":1762736410000,"duration_ms":10000,"submits":3,"amends":false}\n'
    history.write_text(count % "" + count % "10690010")
    assert learn_files([history], Registry(), tmp_path / "state") == 1


def test_ports_are_at_home_where_kafka_clients_put_them() -> None:
    assert [partition_of(key, 12) for key in ("21", "foobar")] == [
        (-973932308 & 0x7FFFFFFF) % 12,
        (-790332482 & 0x7FFFFFFF) % 12,
    ]  # hashes from the tests of Kafka's own Java client


@given(port=st.from_regex(r"106\d{1,12}", fullmatch=True), partitions=st.integers(1, 500))
def test_where_partitions_are_doubled_ports_stay_or_move_to_new_ones(port: str, partitions: int) -> None:
    """So old partitions need no history of ports that they did not have."""
    before = partition_of(port, partitions)
    assert partition_of(port, 2 * partitions) in {before, before + partitions}
