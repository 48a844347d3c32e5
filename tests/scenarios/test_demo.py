"""The demo, as a newcomer meets it: plain lines without a terminal, a clean end on Ctrl-C, nothing left behind."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from streams.simulate import simulate

pytestmark = pytest.mark.timeout(180)

DEMO = [sys.executable, "-m", "streams.cli", "demo", "--short"]


def test_it_ends_with_a_summary_of_what_was_caught() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, check=False, timeout=150)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 of 6 injected incidents caught" in done.stdout
    assert "alerted in error: " in done.stdout
    assert re.search(
        r"caught  flash@\d+: tenfold within a minute\n +volume-flash \(critical\) after \d+ min", done.stdout
    )
    (reasons,) = re.findall(r"rejected to the dead letter topic: (.*)", done.stdout)
    labels = [label for label in simulate("festival-hour", 1).labels if label.get("fate") == "rejected"]
    assert sum(map(int, re.findall(r"\d+", reasons.replace("utf8", "")))) == sum(label["count"] for label in labels)
    assert re.search(r"throttle commands proposed \(dry run\): \d+ throttle", done.stdout)
    assert "\x1b" not in done.stdout


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"TMPDIR": str(temporary)}
    )
    assert process.stdout
    deadline = time.monotonic() + 60
    while "playing it" not in process.stdout.readline():
        assert time.monotonic() < deadline
    time.sleep(8)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (1, "")
    assert "interrupted" in said
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert list(temporary.iterdir()) == []
