"""What an operator can choose: the one place that reads the environment, and the one list of what may be said there.

Every field is a variable `PORTWATCH_<NAME>`; an empty variable counts as absent. A start with wrong settings stops with
every wrong variable named, one line each. Detector thresholds are not settings: they live, with their sources, beside
the detectors.
"""

import os
import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, DirectoryPath, Field, FilePath, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "PORTWATCH_"
MASK = "****"
_READ_BY_TESTS = {"PORTWATCH_REQUIRE_SERVERS"}  # shares the prefix, is none of the settings


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ValueError
    return text


def _url(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme not in {"http", "https"} or not rest or set(text) & set(" ,"):
        raise ValueError
    return text.rstrip("/")


_Addresses = Annotated[
    tuple[Annotated[str, AfterValidator(_address)], ...],
    NoDecode,
    BeforeValidator(_split),
    Field(min_length=1, json_schema_extra={"allowed": "HOST:PORT, several separated by commas"}),
]
_Urls = Annotated[
    tuple[Annotated[str, AfterValidator(_url)], ...],
    NoDecode,
    BeforeValidator(_split),
    Field(json_schema_extra={"allowed": "http(s)://HOST:PORT, several separated by commas"}),
]
_NamePart = Field(pattern=r"^[a-zA-Z0-9._-]*$", max_length=200)
_Folder = Annotated[DirectoryPath, Field(json_schema_extra={"allowed": "an existing folder"})]
_File = Annotated[FilePath, Field(json_schema_extra={"allowed": "an existing file"})]


class Settings(BaseSettings):
    """All settings of one process, checked and frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=False,
    )

    bootstrap_servers: _Addresses = ("127.0.0.1:9092",)
    """Kafka brokers to start from."""
    group_id: Annotated[str, Field(min_length=1), _NamePart] = "portwatch"
    """Consumer group; workers with the same one share the partitions."""
    topic_prefix: Annotated[str, _NamePart] = ""
    """Put before the name of every topic, so that two installations can share one cluster."""
    partitions: Annotated[int, Field(ge=1, le=1000)] = 12
    """Partitions of every topic keyed by port, and so the most workers that can share the work. Changing it later moves
    ports between partitions: do it on a drained topic."""
    replication_factor: Annotated[int | None, Field(ge=1, le=9)] = None
    """Copies of every topic that `topics create` makes; absent = 3, or one per broker where there are fewer."""
    broker_wait_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How long a command waits for a Kafka that is away before it gives up."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the brokers."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How to log in, where the protocol says SASL."""
    sasl_username: str | None = None
    """Kafka user."""
    sasl_password: SecretStr | None = None
    """Password of the Kafka user."""
    ssl_cafile: _File | None = None
    """Certificates (PEM) that the brokers' ones must be signed by; absent = the system's."""
    ssl_certfile: _File | None = None
    """Own certificate (PEM), where the brokers ask for one."""
    ssl_keyfile: _File | None = None
    """Key (PEM) of the own certificate."""

    registry_dir: _Folder | None = None
    """Registry folder to judge by; absent = the registry topics."""
    state_in: _File | None = None
    """State file that `portwatch learn` or `replay --state-out` wrote: the history to start with where no checkpoint
    exists."""

    lateness_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 10_000
    """How far behind the newest event of its partition an event may be and still count in time."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.1, le=300)] = 5.0
    """Time between two checkpoints of a partition: what a restarted worker has to read again at most."""
    emit_panes: bool = False
    """Send the closed counts of every port and 10 s to sms.panes.v1, for warehouses and audits."""

    throttle_lasts_s: Annotated[int, Field(ge=10, le=86_400)] = 900
    """A proposed throttle ends by itself after this time."""
    throttle_max_ports: Annotated[int, Field(ge=0, le=10_000)] = 20
    """Most ports of a partition that may be under a throttle at once; 0 = propose none."""
    throttle_max_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Most of a partition's submits (as a share) that throttled ports may have together."""

    alertmanager_urls: _Urls = ()
    """Every Alertmanager of the cluster; none = alerts go to Kafka alone. An alert fires for 5.5 min at least, so that
    a `group_interval` of up to 5 min, the default, misses none."""
    http_host: str = "127.0.0.1"
    """Address that serves metrics, health and status; give 0.0.0.0 only behind a firewall."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 9464
    """TCP port of the same; 0 = any free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important log line that is written."""

    def shown(self) -> dict[str, str]:
        """Every setting as text by its variable, secrets masked, absent ones empty."""
        return {PREFIX + name.upper(): _text(getattr(self, name)) for name in type(self).model_fields}


class SettingsError(Exception):
    """The environment holds wrong settings; the text names each one on a line of its own."""


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401 - checked by pydantic, like the environment
    """Settings from the environment, or from `overrides` where given (a command's own options).

    Raises `SettingsError` whose text has a line for every wrong or unknown variable.
    """
    complaints = _unknown_variables()
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(complaints + _complaints(error))) from None
    if settings.security_protocol.startswith("SASL") and not (settings.sasl_username and settings.sasl_password):
        complaints.append(
            f"{PREFIX}SECURITY_PROTOCOL: {settings.security_protocol!r}: "
            f"needs {PREFIX}SASL_USERNAME and {PREFIX}SASL_PASSWORD"
        )
    if complaints:
        raise SettingsError("\n".join(complaints))
    return settings


def notify_socket() -> str | None:
    """Where systemd listens to a service (sd_notify), if it started this one: its say, so none of the settings."""
    return os.environ.get("NOTIFY_SOCKET") or None


def settings_page() -> str:
    """docs/settings.md, generated from the fields."""
    head = f"""# Settings

All settings are environment variables. A wrong one stops the start, with its allowed range; so does an unknown variable
that begins with `{PREFIX}`. An empty variable counts as absent. `portwatch doctor` shows what is in force.

| variable | default | allowed | meaning |
|---|---|---|---|
"""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_cell(_text(field.default))} | {allowed(name)} "
        f"| {' '.join((field.description or '').split())} |\n"
        for name, field in Settings.model_fields.items()
    ]
    return head + "".join(rows)


def allowed(name: str) -> str:
    """What a setting may hold, in words; the error and the page of settings say the same."""
    schema = Settings.model_json_schema()["properties"][name]
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return _in_words({**schema, **options[0]})


def _in_words(schema: dict[str, Any]) -> str:
    match schema:
        case {"allowed": str(words)}:
            return words
        case {"enum": list(values)}:
            return ", ".join(values)
        case {"minimum": low, "maximum": high, "type": kind}:
            return f"{kind} from {low:g} to {high:g}" if kind == "number" else f"whole number from {low} to {high}"
        case {"pattern": _}:
            least = schema.get("minLength", 0)
            return f"letters, digits, '.', '_' and '-', {least} to {schema['maxLength']} characters"
        case {"minLength": int(least)}:
            return f"at least {least} characters"
        case _:
            return "true or false" if schema["type"] == "boolean" else "text"


def _complaints(error: ValidationError) -> list[str]:
    wrong: dict[str, object] = {}
    for item in error.errors():
        wrong.setdefault(str(item["loc"][0]), item["input"])
    return [_complaint(name, value) for name, value in wrong.items()]


def _complaint(name: str, value: object) -> str:
    shown = MASK if _is_secret(Settings.model_fields[name]) else without_credentials(repr(value))
    return f"{PREFIX}{name.upper()}: {shown}: allowed is {allowed(name)}"


def _unknown_variables() -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _READ_BY_TESTS
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    nearest = {name: get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0] for name in unknown}
    return [f"{name}: unknown variable; the nearest setting is {nearest[name]}" for name in unknown]


def _is_secret(field: FieldInfo) -> bool:
    return "SecretStr" in str(field.annotation)


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return MASK
        case tuple():
            return without_credentials(",".join(value))
        case _:
            return str(value)


def without_credentials(text: str) -> str:
    """The text with user and password of any URL in it masked."""
    return re.sub(r"//[^@/]*@", f"//{MASK}@", text)


def _cell(text: str) -> str:
    return f"`{text}`" if text else ""
