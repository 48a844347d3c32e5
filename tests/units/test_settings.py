"""Settings: what the environment may say, and that everything wrong with it is told at once."""

import os
import re
from pathlib import Path

import pytest

from streams.settings import PREFIX, Settings, SettingsError, load_settings, settings_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def wrong(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    """The lines that these PORTWATCH_ variables are refused with."""
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value).splitlines()


def test_the_environment_is_read_and_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTWATCH_BOOTSTRAP_SERVERS", "a:1, b:2")
    monkeypatch.setenv("PORTWATCH_HTTP_PORT", "0")
    monkeypatch.setenv("PORTWATCH_ALERTMANAGER_URLS", "http://am-1:9093/,https://am-2:9093")

    settings = load_settings(group_id="other")

    assert settings.bootstrap_servers == ("a:1", "b:2")
    assert (settings.http_port, settings.group_id) == (0, "other")
    assert settings.alertmanager_urls == ("http://am-1:9093", "https://am-2:9093")


def test_an_empty_variable_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTWATCH_REGISTRY_DIR", "")
    monkeypatch.setenv("PORTWATCH_PARTITIONS", "")

    assert load_settings() == Settings()


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(
        monkeypatch,
        BOOTSTRAP_SERVERS="kafka:9092,kafka",
        GROUP_ID="a b",
        PARTITIONS="0",
        REPLICATION_FACTOR="three",
        REGISTRY_DIR="/no/such/folder",
        LATENESS_MS="1.5",
        CHECKPOINT_INTERVAL_S="inf",
        THROTTLE_MAX_SHARE="nan",
        ALERTMANAGER_URLS="am:9093",
        HTTP_PORT="65536",
        LOG_LEVEL="loud",
    ) == [
        "PORTWATCH_BOOTSTRAP_SERVERS: 'kafka': allowed is HOST:PORT, several separated by commas",
        "PORTWATCH_GROUP_ID: 'a b': allowed is letters, digits, '.', '_' and '-', 1 to 200 characters",
        "PORTWATCH_PARTITIONS: '0': allowed is whole number from 1 to 1000",
        "PORTWATCH_REPLICATION_FACTOR: 'three': allowed is whole number from 1 to 9",
        "PORTWATCH_REGISTRY_DIR: '/no/such/folder': allowed is an existing folder",
        "PORTWATCH_LATENESS_MS: '1.5': allowed is whole number from 0 to 3600000",
        "PORTWATCH_CHECKPOINT_INTERVAL_S: 'inf': allowed is number from 0.1 to 300",
        "PORTWATCH_THROTTLE_MAX_SHARE: 'nan': allowed is number from 0 to 1",
        "PORTWATCH_ALERTMANAGER_URLS: 'am:9093': allowed is http(s)://HOST:PORT, several separated by commas",
        "PORTWATCH_HTTP_PORT: '65536': allowed is whole number from 0 to 65535",
        "PORTWATCH_LOG_LEVEL: 'loud': allowed is debug, info, warning, error",
    ]


@pytest.mark.parametrize("address", ["kafka", "kafka:", ":9092", "kafka:0", "kafka:65536", "kafka:９", "kafka:+1"])
def test_an_address_is_host_and_port(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    (line,) = wrong(monkeypatch, BOOTSTRAP_SERVERS=address)
    assert line.startswith(f"PORTWATCH_BOOTSTRAP_SERVERS: {address!r}: ")


def test_an_unknown_variable_is_an_error_that_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(monkeypatch, BOOTSTRAP_SERVER="a:1", PARTITIONS="0") == [
        "PORTWATCH_BOOTSTRAP_SERVER: unknown variable; the nearest setting is PORTWATCH_BOOTSTRAP_SERVERS",
        "PORTWATCH_PARTITIONS: '0': allowed is whole number from 1 to 1000",
    ]


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTWATCH_SASL_PASSWORD", "secret-too")
    monkeypatch.setenv("PORTWATCH_ALERTMANAGER_URLS", "https://noc:secret-three@am:9093")
    settings = load_settings()

    shown = settings.shown()
    assert "secret" not in str(shown)
    assert shown["PORTWATCH_SASL_PASSWORD"] == "****"
    assert shown["PORTWATCH_ALERTMANAGER_URLS"] == "https://****@am:9093"
    assert "secret-too" not in repr(settings)


def test_sasl_needs_a_user_and_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(monkeypatch, SECURITY_PROTOCOL="SASL_SSL", SASL_USERNAME="portwatch") == [
        "PORTWATCH_SECURITY_PROTOCOL: 'SASL_SSL': needs PORTWATCH_SASL_USERNAME and PORTWATCH_SASL_PASSWORD"
    ]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().partitions = 3


def test_the_page_is_the_one_that_the_fields_make() -> None:
    assert (DOCS / "settings.md").read_text("utf-8") == settings_page()


def test_every_setting_is_explained_and_has_a_range() -> None:
    rows = [line.split(" | ") for line in settings_page().splitlines() if line.startswith("| `")]

    assert [row[0].strip("| `") for row in rows] == list(load_settings().shown())
    assert all(row[2] and re.fullmatch(r"[A-Z].+\. \|", row[3]) for row in rows)
