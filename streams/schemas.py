"""The wire for others: a JSON Schema of every record and an AsyncAPI document of every topic, made from the types.

`python -m streams.schemas` writes docs/schemas/*.json, docs/asyncapi.yaml and docs/settings.md (it needs the `dev`
extra); a test holds them equal. Evolution is additive: readers ignore what they don't know.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from detectors.contract import Alert, Command
from detectors.registry import Campaign, Enterprise, Filing, PortLease
from streams import topics
from streams.contract import CUT_HEADER, REPLAYED_HEADER, DeadLetter, RejectReason, Submit
from streams.registry import FIRST_MS, LAST_MS, TIME_KEYS, WIRE_NAMES
from streams.settings import Settings, settings_page
from streams.topics import Topic
from streams.worker.metrics import metrics_page

DOCS = Path(__file__).parent.parent / "docs"

TYPES: Mapping[str, type] = {
    "submit": Submit,
    "port-lease": PortLease,
    "filing": Filing,
    "enterprise": Enterprise,
    "campaign": Campaign,
    "alert": Alert,
    "command": Command,
    "dead-letter": DeadLetter,
}
_REGISTRY_ROWS = (PortLease, Filing, Enterprise, Campaign)
_DIGITS = {"access_port": "^[0-9]{3,20}$", "extension": "^[0-9]{1,17}$"}
_TIME_OPTIONS = [
    {"type": "integer", "minimum": FIRST_MS, "maximum": LAST_MS, "description": "UTC epoch milliseconds"},
    {"type": "string", "description": "ISO 8601 with an offset, or a date: midnight Asia/Shanghai"},
]


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of each record, by the name of its file without .json."""
    return {name: _schema(kind) for name, kind in TYPES.items()}


def _schema(kind: type) -> dict[str, Any]:
    (reference,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    definitions = {name: _on_the_wire(schema) for name, schema in components.items()}
    own = definitions.pop(reference["$ref"].rpartition("/")[2])
    if kind in _REGISTRY_ROWS:
        _as_in_files(kind, own)
        if "ThirdParty" in definitions:
            _put_times(definitions["ThirdParty"], WIRE_NAMES["since"], "to")
    more = {"$defs": definitions} if definitions else {}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **own, **more}


def _on_the_wire(schema: dict[str, Any]) -> dict[str, Any]:
    """With the wire's names, and without the signature that Python takes for a docstring."""
    properties = {WIRE_NAMES.get(name, name): rest for name, rest in schema.get("properties", {}).items()}
    required = [WIRE_NAMES.get(name, name) for name in schema.get("required", [])]
    changed = {**schema, "properties": properties, "required": required} if properties else dict(schema)
    if changed.get("description", "").startswith(f"{schema['title']}("):
        del changed["description"]
    return changed


def _as_in_files(kind: type, schema: dict[str, Any]) -> None:
    """What `registry` accepts beyond the types: times as text, and one carrier or purpose instead of a list."""
    properties = schema["properties"]
    _put_times(schema, *TIME_KEYS[kind])
    for name in properties.keys() & _DIGITS.keys():
        properties[name]["pattern"] = _DIGITS[name]
    if kind is PortLease:
        properties["carrier"] = properties["carriers"]["items"]
        properties["purpose"] = properties["purposes"]["items"]


def _put_times(schema: dict[str, Any], *names: str) -> None:
    for name in names:
        is_open = name not in schema["required"]
        schema["properties"][name] = {"anyOf": [*_TIME_OPTIONS, *([{"type": "null"}] if is_open else [])]}


# ---- AsyncAPI

_DESCRIPTION = (
    "Streaming monitor for SMS access ports. Every record of a port has the port as its key; the partition is murmur2 "
    "of the key, as with all Kafka clients."
)
_INTEGER = {"type": "integer"}
_PANE_NUMBERS = ("start_ms", "duration_ms", "submits", "retries", "recipients", "segments")
_PANE = {
    "type": "object",
    "required": ["access_port", *_PANE_NUMBERS, "amends", "watermark_ms"],
    "properties": {
        "access_port": {"type": "string", "pattern": _DIGITS["access_port"]},
        **dict.fromkeys(_PANE_NUMBERS, _INTEGER),
        "amends": {"type": "boolean", "description": "late submits, to be added to what was said of the pane"},
        "watermark_ms": {
            "type": ["integer", "null"],
            "description": "that the late submits met: with port and start it tells a repeat from more of them",
        },
    },
}
_EVENT = {
    "type": "object",
    "description": "CloudEvents 1.0, binary mode",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "the same for the same event: a repeat can be told from news"},
        "ce_source": {"type": "string"},
        "ce_type": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": {"type": "string", "description": "access port"},
    },
}
_TEXT, _NUMBER = {"type": "string"}, {"type": "string", "pattern": "^[0-9]+$"}
_AGAIN = {**_NUMBER, "description": "how often it came back from the dead letters"}
_REJECTED = {
    "type": "object",
    "required": ["dlq.reason", "dlq.error", "dlq.original.topic", "dlq.original.partition", "dlq.original.offset"],
    "properties": {
        "dlq.reason": {"enum": [reason.value for reason in RejectReason]},
        "dlq.error": _TEXT,
        "dlq.original.topic": _TEXT,
        "dlq.original.partition": _NUMBER,
        "dlq.original.offset": _NUMBER,
        "dlq.original.timestamp": _NUMBER,
        "dlq.original.line": _NUMBER,
        CUT_HEADER: {**_NUMBER, "description": "only where the value is cut: the size of the whole"},
        "dlq.original.sha256": {**_TEXT, "description": "only where the value is cut: of the whole"},
        REPLAYED_HEADER: _AGAIN,
    },
}
_REPLAYED = {"type": "object", "properties": {REPLAYED_HEADER: _AGAIN}}
_BYTES = {"description": "bytes"}


def _file(name: str) -> dict[str, Any]:
    return {"$ref": f"./schemas/{name}.json"}


def _rows(name: str) -> dict[str, Any]:
    return {"description": "all rows of the key", "oneOf": [{"type": "array", "items": _file(name)}, _file(name)]}


def _message(about: str, payload: Mapping[str, Any], content_type: str = "", **more: object) -> dict[str, Any]:
    told = {"contentType": content_type} if content_type else {}
    return {"summary": about, **told, **more, "payload": payload}


_MESSAGES: Mapping[Topic, Mapping[str, dict[str, Any]]] = {
    topics.SUBMIT: {
        "submit": _message("One submit.", _file("submit"), headers=_REPLAYED),
        "submitLines": _message("A block of submits, one a line.", {"type": "string"}, "application/x-ndjson"),
        "submitTable": _message(
            "A block of submits as an Arrow IPC stream.", _BYTES, "application/vnd.apache.arrow.stream"
        ),
    },
    topics.PORTS: {"portLeases": _message("The leases of a main port.", _rows("port-lease"))},
    topics.SIGNATURES: {"filings": _message("The filings of a name on a full port.", _rows("filing"))},
    topics.ENTERPRISES: {"enterprises": _message("An enterprise.", _rows("enterprise"))},
    topics.CAMPAIGNS: {"campaigns": _message("The planned volumes of a port or a lessee.", _rows("campaign"))},
    topics.ALERTS: {"alert": _message("A change in the life of an alert.", _file("alert"), headers=_EVENT)},
    topics.COMMANDS: {"command": _message("A throttle or its release.", _file("command"), headers=_EVENT)},
    topics.PANES: {"pane": _message("What a port sent in a slice of time.", _PANE)},
    topics.DEAD_LETTERS: {"deadLetter": _message("A rejected record, as it was.", _BYTES, headers=_REJECTED)},
    topics.STATE: {"checkpointChunk": _message("Internal: a part of a checkpoint.", _BYTES, "application/zstd")},
}
_RECEIVED = (topics.SUBMIT, topics.PORTS, topics.SIGNATURES, topics.ENTERPRISES, topics.CAMPAIGNS, topics.STATE)
_SENT = (topics.ALERTS, topics.COMMANDS, topics.PANES, topics.DEAD_LETTERS, topics.STATE)


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document; it refers to the schemas as files beside it."""
    operations = [("receive", topic) for topic in _RECEIVED] + [("send", topic) for topic in _SENT]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "portwatch",
            "version": "1.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in topics.ALL},
        "operations": {
            f"{action}:{topic.name}": {"action": action, "channel": {"$ref": f"#/channels/{topic.name}"}}
            for action, topic in operations
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    key = {"type": "string", "description": topic.key}
    kept = {"retention.ms": topic.keep_ms} if topic.keep_ms else {}
    return {
        "address": topic.name,
        "description": f"Holds {topic.holds}.",
        "messages": {
            name: {**message, "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}}}
            for name, message in _MESSAGES[topic].items()
        },
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions(Settings.model_construct()),  # defaults, whatever the environment says
                "topicConfiguration": {"cleanup.policy": [topic.cleanup_policy], **kept},
                "bindingVersion": "0.5.0",
            }
        },
    }


# ---- files


def pages() -> dict[Path, str]:
    """Every generated file under docs/ with its text."""
    found = {
        DOCS / "schemas" / f"{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }
    document = yaml.dump(asyncapi(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
    found[DOCS / "asyncapi.yaml"] = "# Generated by `python -m streams.schemas`.\n" + document
    found[DOCS / "settings.md"] = settings_page()
    found[DOCS / "metrics.md"] = metrics_page()
    return found


class _Plain(yaml.SafeDumper):
    """Without anchors: a reader of the document shouldn't have to look them up."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the name and shape that PyYAML calls
        return True


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
