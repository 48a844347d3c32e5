"""The generated documents: equal to the files in docs/, valid by their own standards, and true of real records."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from detectors.contract import Action, Alert, AlertState, Command, LegalBasis, Severity, Source, Wording
from detectors.registry import Campaign, Caps, Enterprise, Filing, PortLease, ThirdParty
from streams.contract import DeadLetter, RejectReason
from streams.records import encode
from streams.registry import wire_row
from streams.schemas import TYPES, asyncapi, pages, schemas
from tests.conftest import require

ROOT = Path(__file__).parents[2]
PARSER = "@asyncapi/parser@3.6.3"
PARSE = """
import { Parser, fromFile } from '@asyncapi/parser';
const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const wrong = diagnostics.filter((found) => found.severity < 2);
console.log(JSON.stringify(wrong.map((found) => [found.code, found.path.join('/'), found.message])));
process.exit(document && !wrong.length ? 0 : 1);
"""

SINCE_MS, TO_MS = 1_780_000_000_000, 1_790_000_000_000
RECORDS: dict[str, list[Any]] = {
    "submit": [
        {"event_id": "e1", "event_time_ms": SINCE_MS, "access_port": "10690010"},
        {"event_id": "e2", "event_time_ms": SINCE_MS, "access_port": "10690010", "text": None, "unknown": 1},
    ],
    "port-lease": [
        wire_row(
            PortLease(
                access_port="10690010",
                carriers=("mobile",),
                third_parties=(ThirdParty(enterprise_id="B", since=SINCE_MS),),
                caps=Caps(hours=(8, 22)),
            )
        ),
        {"access_port": "10690010", "carrier": "mobile", "purpose": "code", "effective_from": "2026-01-01"},
    ],
    "filing": [wire_row(Filing(access_port="10690010", extension="01", signature="某某科技", effective_from=SINCE_MS))],
    "enterprise": [wire_row(Enterprise(enterprise_id="B", name="某某科技有限公司"))],
    "campaign": [wire_row(Campaign(access_port="10690010", since=SINCE_MS, to=TO_MS, expected_recipients=1))],
    "alert": [
        json.loads(
            encode(
                Alert(
                    alert_id="a1",
                    detector="volume",
                    rule="volume-flash",
                    state=AlertState.OPEN,
                    severity=Severity.CRITICAL,
                    access_port=None,
                    ports=["10690010"],
                    first_seen_ms=SINCE_MS,
                    last_seen_ms=SINCE_MS,
                    detected_event_ms=SINCE_MS,
                    summary=Wording("en", "zh"),
                    evidence={"factor": 10.5},
                    runbook="volume-flash",
                    legal_basis=[LegalBasis("law", "1", "2026-01-01")],
                    source=[Source("sms.submit.v1", 0, 7)],
                )
            )
        )
    ],
    "command": [json.loads(encode(Command("c1", Action.RELEASE, "10690010", None, "a1", "over", SINCE_MS, SINCE_MS)))],
    "dead-letter": [
        json.loads(
            msgspec.json.encode(
                DeadLetter(
                    reason=RejectReason.NOT_JSON, error="x", topic="f", partition=0, offset=3, value_base64=b"\xff"
                )
            )
        )
    ],
}
WRONG: dict[str, list[Any]] = {
    "submit": [
        {"event_id": "e1", "event_time_ms": SINCE_MS},
        {"event_id": "e1", "event_time_ms": SINCE_MS // 1000, "access_port": "10690010"},
        {"event_id": "e1", "event_time_ms": SINCE_MS, "access_port": "1069x"},
    ],
    "port-lease": [{"access_port": "1"}, {"access_port": "10690010", "third_parties": [{"from": SINCE_MS}]}],
    "filing": [{"access_port": "10690010"}],
    "enterprise": [{"enterprise_id": "B"}],
    "campaign": [{"since": SINCE_MS, "to": TO_MS, "expected_recipients": 1}],
    "alert": [{"alert_id": "a1"}],
    "command": [{**RECORDS["command"][0], "action": "block"}],
    "dead-letter": [{**RECORDS["dead-letter"][0], "reason": "bored"}],
}


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schemas()[name])


def test_the_files_in_docs_are_the_generated_ones() -> None:
    generated = pages()
    for path, text in generated.items():
        assert path.read_text("utf-8") == text, f"{path.relative_to(ROOT)}: run python -m streams.schemas"
    assert {path for path in generated if path.parent.name == "schemas"} == set((ROOT / "docs/schemas").iterdir())


def test_every_type_has_records_to_hold_its_schema_against() -> None:
    assert TYPES.keys() == RECORDS.keys() == WRONG.keys()


@pytest.mark.parametrize("name", TYPES)
def test_a_schema_is_one_and_takes_real_records_only(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas()[name])
    assert [list(validator(name).iter_errors(record)) for record in RECORDS[name]] == [[] for _ in RECORDS[name]]
    assert all(list(validator(name).iter_errors(record)) for record in WRONG[name])


@pytest.mark.parametrize("name", TYPES)
def test_a_schema_uses_the_names_of_the_wire(name: str) -> None:
    def properties(schema: dict[str, Any]) -> Iterator[str]:
        yield from schema.get("properties", {})
        for definition in schema.get("$defs", {}).values():
            yield from properties(definition)

    assert "since" not in set(properties(schemas()[name]))


def test_asyncapi_refers_to_files_that_exist() -> None:
    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            if str(node.get("$ref", "")).startswith("./"):
                yield node["$ref"]
            for child in node.values():
                yield from references(child)
        elif isinstance(node, list):
            for child in node:
                yield from references(child)

    found = set(references(asyncapi()))
    assert found == {f"./schemas/{name}.json" for name in TYPES if name != "dead-letter"}
    assert all((ROOT / "docs" / reference).is_file() for reference in found)


@pytest.fixture(scope="module")
def parser() -> Path:
    """A folder with AsyncAPI's own parser, fetched once."""
    folder = ROOT / ".cache" / "asyncapi"
    npm = shutil.which("npm")
    require(None if npm else "the AsyncAPI parser needs npm: apt-get install npm")
    if not (folder / "node_modules/@asyncapi/parser").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(npm), "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", PARSER]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        require(f"{' '.join(command)}: {done.stderr[-300:]}" if done.returncode else None)
    (folder / "parse.mjs").write_text(PARSE)
    return folder


def parse(parser: Path, document: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", parser / "parse.mjs", document], capture_output=True, text=True, check=False, timeout=120
    )


def test_asyncapis_own_parser_takes_the_document(parser: Path) -> None:
    done = parse(parser, ROOT / "docs/asyncapi.yaml")
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_asyncapis_own_parser_would_tell(parser: Path, tmp_path: Path) -> None:
    """The check before this one can fail."""
    document = asyncapi()
    document["operations"]["send:sms.alerts.v1"]["action"] = "sent"
    shutil.copytree(ROOT / "docs/schemas", tmp_path / "schemas")
    (tmp_path / "asyncapi.yaml").write_text(yaml.safe_dump(document), "utf-8")

    done = parse(parser, tmp_path / "asyncapi.yaml")

    assert done.returncode == 1
    assert "operations/send:sms.alerts.v1/action" in done.stdout
