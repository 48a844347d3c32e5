"""The command line as a person meets it: help, exit codes, what goes to stdout, and no trace for a foreseen error."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.embedded import free_port
from streams.settings import PREFIX


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`portwatch` in a process of its own, with PORTWATCH_ variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment = {**clean, "COLUMNS": "120", "NO_COLOR": "1", **{PREFIX + k: v for k, v in variables.items()}}
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    (tmp_path / "ports.jsonl").write_text('{"access_port": "10690010", "colour": "red"}\n')
    (tmp_path / "signatures.jsonl").write_text('{"access_port": "10690010", "signature": "某某科技"}\n')
    return tmp_path


def test_help_teaches_and_comes_at_once() -> None:
    run("--help")  # the first one compiles
    times = []
    for _ in range(3):
        before = os.times()
        done = run("--help")
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)

    assert done.returncode == 0
    for word in ("doctor", "dlq", "feed", "registry", "simulate", "topics", "lessee", "PORTWATCH_"):
        assert word in done.stdout
    assert min(times) < 0.5, "CPU seconds: something heavy is imported before a command asks for it"


@pytest.mark.parametrize(
    "command",
    ["registry check", "registry load", "topics create", "topics check", "dlq show", "dlq export", "dlq replay",
     "feed jsonl", "feed kannel", "doctor", "simulate", "worker", "learn", "replay", "demo",
     "backtest counts"],
)  # fmt: skip
def test_every_command_has_an_example_of_itself(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert f"portwatch {command}" in " ".join(done.stdout.split()).split("Example", 1)[1]


def test_registry_check_counts_on_stdout_and_warns_on_stderr(registry: Path) -> None:
    done = run("registry", "check", registry)

    assert done.returncode == 0
    assert done.stdout.startswith("1 lease, 1 filing, 0 enterprises, 0 campaigns; version ")
    assert done.stderr == "ignored: ports.jsonl: column colour (1)\n"


def test_registry_check_names_every_bad_row_and_exits_1(registry: Path) -> None:
    (registry / "ports.jsonl").write_text('{"access_port": "x"}\n{"access_port": "[bold]\\u001b[2Jy"}\n')

    done = run("registry", "check", registry)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "portwatch: ports.jsonl:1: access_port: 'x': must be 3 to 20 digits\n"
        "ports.jsonl:2: access_port: '[bold]\\x1b[2Jy': must be 3 to 20 digits\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-verb"],
        ["registry", "check"],
        ["dlq", "replay"],
        ["dlq", "replay", "--all", "--from", "3"],
        ["dlq", "replay", "--repaired", "/no/such/file"],
        ["dlq", "export"],
        ["dlq", "show", "--reason", "bored"],
        ["simulate", "--scenario", "no-such", "--out", "never-made"],
        ["feed", "jsonl", "/no/such/file"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_wrong_settings_exit_2_with_one_line_each() -> None:
    done = run("topics", "check", PARTITIONS="0", BOOTSTRAP_SERVER="a:1")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "portwatch: PORTWATCH_BOOTSTRAP_SERVER: unknown variable; "
        "the nearest setting is PORTWATCH_BOOTSTRAP_SERVERS\n"
        "PORTWATCH_PARTITIONS: '0': allowed is whole number from 1 to 1000\n"
    )


@pytest.mark.parametrize("command", ["topics check", "topics create", "dlq show", "dlq replay --all"])
def test_a_kafka_that_is_away_is_waited_for_without_a_trace(command: str) -> None:
    address = f"127.0.0.1:{free_port()}"

    started = time.monotonic()
    done = run(*command.split(), BOOTSTRAP_SERVERS=address, BROKER_WAIT_S="1.5")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"waiting for Kafka at {address} (0 s)...\nportwatch: no Kafka at {address} for ")
    assert done.stderr.count("\n") == 2
    assert time.monotonic() - started > 1


def test_the_doctor_says_what_to_do_about_a_kafka_that_is_away(registry: Path) -> None:
    address = f"127.0.0.1:{free_port()}"

    done = run("doctor", BOOTSTRAP_SERVERS=address, REGISTRY_DIR=str(registry), SASL_PASSWORD="long-enough-and-secret")

    assert done.returncode == 1
    assert address in done.stdout
    assert "PORTWATCH_BOOTSTRAP_SERVERS" in done.stdout
    assert "1 leases, 1 filings" in " ".join(done.stdout.split())
    assert "secret" not in done.stdout


def test_simulate_lists_its_scenarios() -> None:
    done = run("simulate", "--list")
    assert done.returncode == 0
    assert "quiet-day: " in done.stdout


def test_simulate_writes_what_the_contract_says(tmp_path: Path) -> None:
    done = run("simulate", "--scenario", "festival-hour", "--seed", "3", "--out", tmp_path / "out", "--scale", "0.1")

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"submits.jsonl", "registry", "labels.jsonl"}
    assert run("registry", "check", tmp_path / "out" / "registry").returncode == 0


def test_version() -> None:
    assert run("--version").stdout == "0.1.0\n"
