"""The house rules that a machine can check: what may import what, names, and that pages agree with the code."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypeGuard

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.core import TyperGroup

from detectors.catalog import RULES, detectors
from streams import topics
from streams.cli import app
from streams.settings import PREFIX, Settings
from tests.servers import ROOT

TOP_LEVEL = {
    *("pyproject.toml", "README.md", "streams", "detectors", "deploy", "tests", "docs", "Makefile", "LICENSE"),
    *("CHANGELOG.md", "requirements.lock"),
}
NAMES_THAT_SAY_NOTHING = {"utils", "helpers", "common", "manager", "base", "core"}

# Of the standard library, what reads a clock, a random source, the machine or the network.
IMPURE = {
    *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "selectors"),
    *("shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "warnings"),
}
PURE_PACKAGES = ("numpy", "scipy.special", "chinese_calendar", "borax.calendars.lunardate", "detectors")
IMPURE_ATTRIBUTE = re.compile(r".*\.(now|utcnow|today|uuid1|uuid4)|(np|numpy)\.random\.(?!Generator)\w+")
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval"}

# What a room of streams/ may import of the other rooms. Modules beside the rooms serve all of them.
ROOMS = {"backtest": {"feeds"}, "feeds": set[str](), "noc": set[str](), "simulate": set[str](), "worker": {"noc"}}
COMPOSERS = {"streams.cli", "streams.demo"}


def modules(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield dotted.removesuffix(".__init__"), ast.parse(path.read_text(), filename=str(path))


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module or name the source imports, dotted: `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def impurities(tree: ast.Module) -> list[str]:
    found = []
    for name in imports(tree):
        top = name.partition(".")[0]
        if not is_within(name, PURE_PACKAGES) and (top in IMPURE or top not in sys.stdlib_module_names):
            found.append(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and IMPURE_ATTRIBUTE.fullmatch(ast.unparse(node)):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS:
            found.append(node.func.id)
    return found


def test_detectors_are_pure() -> None:
    assert {name: found for name, tree in modules("detectors") if (found := impurities(tree))} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from time import time", ["time.time"]),
        ("import os.path", ["os.path"]),
        ("from streams import topics", ["streams.topics"]),
        ("import orjson", ["orjson"]),
        ("from scipy import stats", ["scipy.stats"]),
        ("from datetime import datetime\nnow = datetime.now", ["datetime.now"]),
        ("import numpy as np\nrng = np.random.default_rng()", ["np.random.default_rng"]),
        ("print(1)", ["print"]),
        ("import numpy as np\ndef f(rng: np.random.Generator) -> None: rng.random()", []),
        ("import hashlib\nfrom scipy.special import betainc\nfrom detectors.batch import SubmitBatch", []),
    ],
)
def test_impurities_are_seen(source: str, expected: list[str]) -> None:
    assert impurities(ast.parse(source)) == expected


def graph() -> dict[str, set[str]]:
    """Module of streams/ -> modules of streams/ it imports."""
    trees = dict(modules("streams"))
    edges: dict[str, set[str]] = {}
    for name, tree in trees.items():
        named = {target for target in imports(tree) if is_within(target, ("streams",))}
        edges[name] = {target if target in trees else target.rpartition(".")[0] for target in named} - {name, "streams"}
    return edges


def room(module: str) -> str | None:
    name = module.split(".")[1] if module.count(".") else None
    return name if name in ROOMS else None


def test_rooms_know_only_their_neighbours() -> None:
    crossings = {
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in targets
        if room(module) and room(target) and room(target) not in {room(module), *ROOMS[str(room(module))]}
    }
    assert crossings == set()


def test_only_the_command_line_composes() -> None:
    importers = {module for module, targets in graph().items() if targets & COMPOSERS}
    assert importers <= {"streams.cli", "streams.__main__"}


def test_imports_have_no_cycle() -> None:
    TopologicalSorter(graph()).prepare()


def test_settings_alone_read_the_environment() -> None:
    readers = {name for name, tree in modules("streams") if {"os.environ", "os.getenv"} & attributes(tree)}
    assert readers <= {"streams.settings"}


def attributes(tree: ast.Module) -> set[str]:
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | set(imports(tree))


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in modules("detectors", "streams") if tree.body and not ast.get_docstring(tree)] == []


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    # git refuses a clone that belongs to somebody else, as it may where root runs the checks.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return listing.stdout.split("\0")[:-1]


def test_top_level_entries_are_the_agreed_ones() -> None:
    entries = {path.partition("/")[0] for path in tracked()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


def test_no_name_says_nothing() -> None:
    parts = {Path(part).stem for path in tracked() for part in path.split("/")}
    assert parts & NAMES_THAT_SAY_NOTHING == set()


def test_every_rule_is_raised_by_its_owner() -> None:
    """The detectors of the contract are folders; each of ours stands in one of them."""
    owners = {rule.detector for rule in RULES.values()}
    assert owners == {type(detector).__module__.split(".")[1] for detector in detectors()}
    words = {
        name: {node.value for _, tree in modules(f"detectors/{name}") for node in ast.walk(tree) if is_text(node)}
        for name in owners
    }
    assert [name for name, rule in RULES.items() if name not in words[rule.detector]] == []


def test_detectors_have_names_of_their_own() -> None:
    """Their states and times are told apart by them."""
    assert max(Counter(detector.name for detector in detectors()).values()) == 1


def is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def headings(page: str) -> list[str]:
    return re.findall(r"^### (\S+)", (ROOT / page).read_text(), flags=re.MULTILINE)


def test_every_rule_has_a_runbook() -> None:
    """Those about ourselves are held to deploy/monitoring/rules.yaml by tests/observability/test_rules.py."""
    about_ports = [heading for heading in headings("docs/runbooks.md") if not heading.startswith("Portwatch")]
    assert sorted(about_ports) == sorted(RULES)


def pages() -> dict[str, str]:
    return {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}


def test_make_targets_that_pages_name_exist() -> None:
    named = {
        target for text in pages().values() for target in re.findall(r"(?:^|`|=1 )make ([a-z]+)", text, re.MULTILINE)
    }
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def commands_that_pages_name() -> set[str]:
    """`portwatch` with its words: in backticks, or alone on lines of code."""
    text = "\n".join(pages().values())
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\bportwatch( +[a-z](?: ?[^\s|&;`]+)+)", "\n".join(code)))


def unknown_word(words: list[str]) -> str | None:
    """The first word that leads to no command, or the first option that the command does not have."""
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words:
        word, *words = words
        if word not in command.commands:
            return word
        command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts}
    return next((word for word in words if word.startswith("--") and word not in options), None)


def test_commands_that_pages_name_exist() -> None:
    named = {command.strip() for command in commands_that_pages_name()}
    assert {"worker", "state export DIR", "state restore DIR", "dlq replay"} <= named
    assert {command: word for command in named if (word := unknown_word(command.split()))} == {}


def test_the_operators_page_says_how_long_topics_keep_what() -> None:
    page = pages()["operations.md"]
    days = {name: int(number) for name, number in re.findall(r"^\| `([\w.]+)` \| (\d+) days \|", page, re.MULTILINE)}
    assert days == {topic.name: topic.keep_ms // topics.DAY_MS for topic in topics.ALL if topic.keep_ms}


def test_settings_and_pages_agree() -> None:
    documented = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z0-9_]*", "\n".join(pages().values())))
    fields = {PREFIX + name.upper() for name in Settings.model_fields}
    assert documented - {"PORTWATCH_REQUIRE_SERVERS"} == fields


def pinned() -> dict[str, tuple[str, str]]:
    """Package -> its pin and who wants it, of requirements.lock."""
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text())
    matches = (re.match(r"([\w.-]+)(?:\[.*?\])?==(\S+)", entry) for entry in entries)
    return {canonicalize_name(m[1]): (m[2], m.string.partition("# via")[2]) for m in matches if m}


def test_the_lock_file_follows_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    pins = pinned()
    asked_for = {name for name, (_, reasons) in pins.items() if "portwatch (pyproject.toml)" in reasons}
    assert asked_for == {canonicalize_name(requirement.name) for requirement in wanted}
    assert [str(r) for r in wanted if not r.specifier.contains(pins[canonicalize_name(r.name)][0])] == []
