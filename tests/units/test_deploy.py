"""What deploy/ ships agrees with the code and with itself: settings exist, ports agree, probes ask what is answered."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry

from streams.settings import PREFIX, Settings
from streams.worker.http import Health, served
from streams.worker.watchdog import BEAT_S, STARTING_S
from tests.conftest import require
from tests.servers import ROOT

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "portwatch-worker@.service"
HTTP_PORT = str(Settings.model_fields["http_port"].default)
STOPS_WITHIN_S = 5


def kubernetes(name: str) -> dict[str, Any]:
    """Kind -> object of a file."""
    return {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())}


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def unit() -> dict[str, list[str]]:
    """Key -> its values, in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("path", sorted(path for path in DEPLOY.rglob("*") if path.is_file()), ids=lambda p: p.name)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]+", path.read_text()))
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize(
    "variables",
    [
        dict(re.findall(r"^#?(\w+)=(.*)$", (DEPLOY / "settings.example.env").read_text(), re.MULTILINE)),
        kubernetes("settings.yaml")["ConfigMap"]["data"],
        compose()["worker"]["environment"],
    ],
    ids=["env file", "kubernetes", "compose"],
)
def test_every_setting_has_a_value_that_is_allowed(variables: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    values = {
        name.removeprefix(PREFIX).lower(): str(tmp_path / "file") if str(value).startswith("/") else value
        for name, value in variables.items()
    }
    Settings.model_validate({name: value for name, value in values.items() if value != ""})  # raises for what is wrong


def test_workers_are_reachable_in_containers_alone() -> None:
    for variables in (kubernetes("settings.yaml")["ConfigMap"]["data"], compose()["worker"]["environment"]):
        assert variables[f"{PREFIX}HTTP_HOST"] == "0.0.0.0"
        assert str(variables[f"{PREFIX}HTTP_PORT"]) == HTTP_PORT
    assert "ports" not in compose()["worker"]
    published = [port for service in compose().values() for port in service.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    example = (DEPLOY / "settings.example.env").read_text()
    assert re.findall(rf"^#?{PREFIX}HTTP_HOST.*", example, re.MULTILINE) == [f"#{PREFIX}HTTP_HOST=0.0.0.0"]


def test_who_scrapes_asks_where_the_worker_answers() -> None:
    (job,) = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert (job["job_name"], found["names"], str(found["port"])) == ("portwatch", ["worker"], HTTP_PORT)
    annotations = kubernetes("worker.yaml")["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": HTTP_PORT,
        "prometheus.io/path": "/metrics",
    }
    (container,) = kubernetes("worker.yaml")["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": int(HTTP_PORT)}]
    assert f"EXPOSE {HTTP_PORT}" in (DEPLOY / "Dockerfile").read_text().splitlines()


async def test_probes_ask_what_is_answered() -> None:
    (container,) = kubernetes("worker.yaml")["Deployment"]["spec"]["template"]["spec"]["containers"]
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    answers = {}
    async with served(Settings(http_port=0), CollectorRegistry(), Health()) as port, aiohttp.ClientSession() as session:
        for name, probe in probes.items():
            async with session.get(f"http://127.0.0.1:{port}{probe['path']}") as answer:
                answers[name] = answer.status
    assert answers == {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 503}  # it waits for Kafka


def test_a_worker_has_the_time_to_end_in_order() -> None:
    assert kubernetes("worker.yaml")["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > (
        2 * STOPS_WITHIN_S
    )
    assert compose()["worker"]["stop_grace_period"] == "15s"
    assert unit()["TimeoutStopSec"] == ["15"]


def test_systemd_waits_for_signs_of_life_as_they_come() -> None:
    assert unit()["Type"] == ["notify"]
    assert int(unit()["TimeoutStartSec"][0]) >= STARTING_S
    assert int(unit()["WatchdogSec"][0]) > 10 * BEAT_S
    assert unit()["Restart"] == ["always"]
    assert unit()["StartLimitIntervalSec"] == ["0"]
    assert f"{PREFIX}HTTP_PORT=%i" in unit()["Environment"]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    require(None if shutil.which("systemd-analyze") else "systemd-analyze: apt-get install systemd")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/portwatch/bin/portwatch", "/bin/true"))  # which must exist
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize("file", ["worker.yaml", "topics.yaml"])
def test_a_pod_may_do_nothing_but_its_work(file: str) -> None:
    found = kubernetes(file)
    pod = found["Deployment" if "Deployment" in found else "Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"].keys() == {"requests", "limits"}
    assert f"USER {pod['securityContext']['runAsUser']}:" in (DEPLOY / "Dockerfile").read_text()


def test_selectors_find_the_workers_and_nothing_else() -> None:
    found = kubernetes("worker.yaml")
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        found["Deployment"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"],
        found["NetworkPolicy"]["spec"]["podSelector"],
        found["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"],
    ]
    assert [selector["matchLabels"] for selector in selectors] == [labels] * 4
    assert kubernetes("topics.yaml")["Job"]["spec"]["template"]["metadata"]["labels"] != labels


def test_every_image_has_a_tag() -> None:
    images = [service["image"] for service in compose().values()]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert [image for image in images if ":" not in image or image.endswith(":latest")] == []
    pom = (DEPLOY / "kafka" / "pom.xml").read_text()
    assert f">{images[0].partition(':')[2]}<" in pom
