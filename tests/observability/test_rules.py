"""The rules by which portwatch watches itself: right by promtool, about metrics that exist, each with its runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.worker.metrics import metrics_page
from tests.conftest import require
from tests.servers import ROOT, Promtool

MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules.yaml"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def names() -> list[str]:
    return [rule["alert"] for rule in rules()]


@pytest.mark.observability
@pytest.mark.parametrize(
    "words",
    [
        ["check", "rules", "--lint-fatal", str(RULES)],
        ["check", "config", "--lint-fatal", str(MONITORING / "prometheus.yaml")],
        ["test", "rules", str(MONITORING / "rules_test.yaml")],
    ],
    ids=["rules", "config", "firing and not firing"],
)
def test_promtool_finds_nothing_wrong(words: list[str]) -> None:
    require(Promtool.missing())
    result = Promtool.run(*words)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.observability
@pytest.mark.parametrize("alert", names())
@pytest.mark.parametrize("wrong", ["and vector(0) > 1", "or vector(1)"], ids=["never fires", "always fires"])
def test_the_tests_notice_a_rule_that(wrong: str, alert: str, tmp_path: Path) -> None:
    require(Promtool.missing())
    changed = rules()
    for rule in changed:
        if rule["alert"] == alert:
            rule["expr"] = f"({rule['expr']}) {wrong}"
    (tmp_path / RULES.name).write_text(yaml.safe_dump({"groups": [{"name": "portwatch", "rules": changed}]}))
    tests = tmp_path / "rules_test.yaml"
    tests.write_text((MONITORING / tests.name).read_text())
    assert Promtool.run("test", "rules", str(tests)).returncode != 0


def test_each_metric_is_one_that_a_worker_shows() -> None:
    shown = set(re.findall(r"^\| `(\w+)`", metrics_page(), re.MULTILINE))
    asked = {rule["alert"]: set(re.findall(r"\bportwatch_\w+", rule["expr"])) for rule in rules()}
    assert set().union(*asked.values()) <= shown
    assert [alert for alert, metrics in asked.items() if not metrics] == ["PortwatchDown"]  # `up` is Prometheus' own


def test_each_says_how_bad_it_is_and_what_to_do() -> None:
    headings = re.findall(r"^### (\S+)", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"
    assert [heading for heading in headings if heading.startswith("Portwatch")] == names()
