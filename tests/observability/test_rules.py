"""The rules by which portwatch watches itself: right by promtool, about metrics that exist, each with its runbook."""

import re
from collections.abc import Iterator
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


def expectations() -> Iterator[tuple[str, bool]]:
    """Of rules_test.yaml: an alert, and whether it is to fire."""
    for test in yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]:
        for case in test.get("alert_rule_test", []):
            yield case["alertname"], bool(case["exp_alerts"])
        for case in test.get("promql_expr_test", []):
            for alert in re.findall(r'alertname="(\w+)"', case["expr"]):
                yield alert, bool(case["exp_samples"])


def test_each_is_shown_firing_and_not() -> None:
    assert sorted(set(expectations())) == sorted((alert, fires) for alert in names() for fires in (False, True))


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
