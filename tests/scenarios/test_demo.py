"""The demo, as a newcomer meets it: plain lines without a terminal, a clean end on Ctrl-C, nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from streams.simulate import simulate

pytestmark = pytest.mark.timeout(180)

DEMO = [sys.executable, "-m", "streams.cli", "demo", "--short"]


def real_cluster(alertmanager_port: int) -> dict[str, str]:
    """An environment whose settings are those of a cluster that a simulation has no business with."""
    return os.environ | {
        "PORTWATCH_BOOTSTRAP_SERVERS": "kafka.invalid:9092",
        "PORTWATCH_SECURITY_PROTOCOL": "SASL_SSL",
        "PORTWATCH_SASL_USERNAME": "portwatch",
        "PORTWATCH_SASL_PASSWORD": "secret",
        "PORTWATCH_ALERTMANAGER_URLS": f"http://127.0.0.1:{alertmanager_port}",
        "PORTWATCH_TOPIC_PREFIX": "real.",
    }


def test_it_ends_with_a_summary_of_what_was_caught() -> None:
    with socket.create_server(("127.0.0.1", 0)) as alertmanager:
        port = alertmanager.getsockname()[1]
        done = subprocess.run(DEMO, capture_output=True, text=True, check=False, timeout=150, env=real_cluster(port))
        alertmanager.settimeout(0)
        with pytest.raises(BlockingIOError):
            alertmanager.accept()
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 of 6 injected incidents caught" in done.stdout
    assert "alerted in error: " in done.stdout
    assert re.search(
        r"caught  flash@(\d+): tenfold within a minute\n +after (\d+ min )?\d+ s of event time: "
        r"volume-flash \((warning|critical)\) on \1\n +sudden: observed ",
        done.stdout,
    )
    (reasons,) = re.findall(r"rejected to the dead letter topic: (.*)", done.stdout)
    labels = [label for label in simulate("festival-hour", 1).labels if label.get("fate") == "rejected"]
    assert sum(map(int, re.findall(r"\d+", reasons.replace("utf8", "")))) == sum(label["count"] for label in labels)
    assert re.search(r"throttle commands proposed \(dry run\): \d+ throttle", done.stdout)
    assert "\x1b" not in done.stdout
    assert "playing festival-hour, 08:00 to 09:20, at 600 times real speed\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) > 120, "a line for a log is not broken at somebody's width"


@dataclass
class Interrupted:
    """A demo that was told to end, what it said after it had said `heard`, and what of it was left."""

    returncode: int
    said: str
    error: str
    left: list[object]


def interrupt(tmp_path: Path, number: signal.Signals, heard: str, then_s: float = 0.0) -> Interrupted:
    process = subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)}
    )
    assert process.stdout
    while heard not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(then_s)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    said, error = process.communicate(timeout=30)
    running = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return Interrupted(process.returncode, said, error, [*running, *tmp_path.iterdir()])


def test_ctrl_c_ends_it_cleanly_and_tells_what_was_seen(tmp_path: Path) -> None:
    demo = interrupt(tmp_path, signal.SIGINT, heard="5/5 playing", then_s=3)
    assert (demo.returncode, demo.error, demo.left) == (1, "", [])
    assert re.search(r"interrupted: .*\n\d of \d injected incidents caught, \d were still to come\n", demo.said)


@pytest.mark.parametrize(("heard", "number"), [("1/5 drawing", signal.SIGTERM), ("4/5 a worker joins", signal.SIGINT)])
def test_ctrl_c_in_the_preparations_leaves_nothing_and_accuses_nobody(
    tmp_path: Path, heard: str, number: signal.Signals
) -> None:
    demo = interrupt(tmp_path, number, heard)
    assert (demo.returncode, demo.error, demo.left) == (1, "", [])
    assert "interrupted before the first submit" in demo.said
    assert "MISSED" not in demo.said
