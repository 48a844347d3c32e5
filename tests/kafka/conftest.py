"""A simulated morning and the settings of workers that judge it."""

from pathlib import Path

import pytest

from streams.learn import learn_files
from streams.registry import load_folder
from streams.settings import Settings, load_settings
from streams.simulate import simulate, write
from tests.servers import ApacheKafka

PARTITIONS = 3


@pytest.fixture(scope="session")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated festival hour: submits, registry, labels, and a state file with its history."""
    folder = tmp_path_factory.mktemp("morning")
    write(simulate("festival-hour", seed=5), folder)
    learn_files([folder / "history.jsonl"], load_folder(folder / "registry"), folder / "state")
    return folder


@pytest.fixture
def settings(kafka: ApacheKafka, topic_prefix: str, morning: Path) -> Settings:
    """Of the workers of one test."""
    return load_settings(
        bootstrap_servers=(kafka.bootstrap,),
        topic_prefix=topic_prefix,
        group_id=f"{topic_prefix}workers",
        partitions=PARTITIONS,
        checkpoint_interval_s=0.5,
        state_in=morning / "state",
        emit_panes=True,
        http_port=0,
    )
