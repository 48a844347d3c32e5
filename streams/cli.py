"""The command line: each command parses, calls one function of a module, and prints what it returns.

Data goes to stdout, progress and errors to stderr. Exit: 0 did its work, 1 could not, 2 wrong usage or wrong settings.
"""

# ruff: noqa: PLC0415 - modules are imported inside the commands, so that --help does not wait for numpy and Kafka

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.text import Text

if TYPE_CHECKING:
    from streams.dlq import Choice
    from streams.feeds.record import Adapter
    from streams.registry import Loaded
    from streams.settings import Settings
    from streams.state import Saved

T = TypeVar("T")

COULD_NOT, WRONG_USAGE = 1, 2
RUN, REPAIR, TRY = "Set up and run", "Look and repair", "Try it without a gateway"

STORY = """
portwatch watches SMS access ports (106...) and tells the NOC within seconds when a port sends far more than it should
(volume), under a name nobody filed (signature), or for companies that are not its lessee (sublet).

Submits arrive on the Kafka topic sms.submit.v1. The registry says who leases which port and which names are filed.
Workers judge, and write alerts to sms.alerts.v1 and to Alertmanager.

Settings are environment variables, PORTWATCH_...: docs/settings.md lists them, `portwatch doctor` shows those in force
and what is wrong.
"""

app = typer.Typer(
    name="portwatch",
    help=STORY,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _group(name: str, about: str, panel: str) -> typer.Typer:
    group = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode="markdown")
    app.add_typer(group, name=name, rich_help_panel=panel)
    return group


registry_app = _group("registry", "Who leases which port, and which names are filed.", RUN)
topics_app = _group("topics", "The Kafka topics that portwatch reads and writes.", RUN)
feed_app = _group("feed", "Send what a gateway wrote to the topic of submits.", RUN)
state_app = _group("state", "What the workers know, as their checkpoints on Kafka hold it.", REPAIR)
dlq_app = _group("dlq", "Rejected submits: see why, and send them again.", REPAIR)
backtest_app = _group("backtest", "The detectors on data of your own, as it was then.", TRY)


def main() -> None:
    """Run the command line. A foreseen error is a message; everything else is a defect and shows its trace."""
    try:
        app()
    except Exception as error:
        if not _is_foreseen(error):
            raise
        say(f"portwatch: {error}")
        sys.exit(WRONG_USAGE if type(error).__name__ == "SettingsError" else COULD_NOT)


def _is_foreseen(error: Exception) -> bool:
    """Our own kinds of error, Kafka's, and those of files."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("streams.", "aiokafka.errors"))


def say(text: str) -> None:
    """A line for people, on stderr; what it quotes can't steer the terminal."""
    Console(stderr=True, highlight=False).print(Text(text), soft_wrap=True)


def show(*renderables: RenderableType) -> None:
    """Tables and the like on stdout."""
    Console(highlight=False).print(*renderables)


def on_kafka(work: Callable[["Settings"], Coroutine[None, None, T]]) -> T:
    """Run `work` with the settings in force, as soon as Kafka answers."""
    from streams.kafka import wait_for_broker
    from streams.settings import load_settings

    settings = load_settings()
    for noisy in ("aiokafka", "asyncio"):  # a line for every attempt, and for futures left alone; we say it once
        logging.getLogger(noisy).setLevel(logging.CRITICAL)

    async def run() -> T:
        await wait_for_broker(settings, say)
        return await work(settings)

    return asyncio.run(run())


@app.callback(invoke_without_command=True)
def version(
    *, asked: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False
) -> None:
    if asked:
        from importlib.metadata import version as version_of

        typer.echo(version_of("portwatch"))
        raise typer.Exit


# ---- registry

RegistryDir = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Folder with ports, signatures, ... as .jsonl or .csv.", show_default=False),
]


@registry_app.command("check")
def registry_check(folder: RegistryDir) -> None:
    """Read a registry folder and say everything that is wrong with it.

    Example: `portwatch registry check registry/`
    """
    from streams.registry import read_folder

    _tell(read_folder(folder))


@registry_app.command("load")
def registry_load(folder: RegistryDir) -> None:
    """Make the registry topics hold exactly what a folder holds; running workers take it over as a whole.

    Example: `portwatch registry load registry/`
    """
    from streams.registry import read_folder
    from streams.registry_topics import publish

    loaded = read_folder(folder)
    _tell(loaded)
    done = on_kafka(lambda settings: publish(loaded.registry, settings))
    typer.echo(", ".join(f"{done[what]:,} {what}" for what in ("sent", "deleted", "unchanged")))


def _tell(loaded: "Loaded") -> None:
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    for what, count in sorted(loaded.ignored.items()):
        say(f"ignored: {what} ({count:,})")
    registry = loaded.registry
    rows = {
        "lease": registry.ports,
        "filing": registry.filings,
        "enterprise": registry.enterprises,
        "campaign": registry.campaigns,
    }
    counts = [f"{len(found):,} {what}{'' if len(found) == 1 else 's'}" for what, found in rows.items()]
    typer.echo(f"{', '.join(counts)}; version {registry.version}")


# ---- topics


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing. Those that exist stay as they are.

    Example: `PORTWATCH_PARTITIONS=24 portwatch topics create`
    """
    from streams import topics

    created = on_kafka(topics.create)
    typer.echo("\n".join(f"created {name}" for name in created) or "nothing to create")


@topics_app.command("check")
def topics_check() -> None:
    """Say how the cluster's topics differ from what portwatch needs; exit 1 if they do.

    Example: `portwatch topics check`
    """
    from streams import topics

    differences = on_kafka(topics.check)
    typer.echo("\n".join(map(str, differences)) or "all topics are as they must be")
    if differences:
        raise typer.Exit(COULD_NOT)


# ---- dead letters

Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this reason; may be given several times.")]
Partition = Annotated[int | None, typer.Option(help="Only this partition of the dead letter topic.", min=0)]
From = Annotated[int, typer.Option("--from", help="First offset.", min=0)]
To = Annotated[int | None, typer.Option("--to", help="Offset behind the last one.", min=0, show_default="the end")]


@dlq_app.command("show")
def dlq_show(
    reason: Reasons = None,
    limit: Annotated[int, typer.Option(help="How many of the newest records to list.", min=0)] = 20,
    *,
    content: Annotated[
        bool, typer.Option("--content", help="Show what the records say, not only their shape.")
    ] = False,
) -> None:
    """Count rejected submits by reason and list the newest. What they say stays hidden: x for letters, 0 for digits.

    Example: `portwatch dlq show --reason bad-port --limit 50`
    """
    from streams import dlq

    choice = _choice(reason, None, 0, None)
    overview = on_kafka(lambda settings: dlq.show(settings, choice, limit))
    show(*dlq.tables(overview, with_content=content))


@dlq_app.command("export")
def dlq_export(
    out: Annotated[Path, typer.Option(help="File to write; it holds what the records say.", show_default=False)],
    reason: Reasons = None,
    partition: Partition = None,
    start: From = 0,
    end: To = None,
) -> None:
    """Write rejected submits that were not sent again to a file, one a line, to be corrected there: see `dlq replay`.

    Example: `portwatch dlq export --reason bad-time --out bad.jsonl`
    """
    from streams import dlq

    choice = _choice(reason, partition, start, end)
    say(f"{on_kafka(lambda settings: dlq.export(settings, choice, out)):,} records")


@dlq_app.command("replay")
def dlq_replay(
    reason: Reasons = None,
    partition: Partition = None,
    start: From = 0,
    end: To = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All reasons and partitions.")] = False,
    repaired: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Those of a file that `dlq export` wrote, with the values it has now."
        ),
    ] = None,
) -> None:
    """Send rejected submits again once what made them bad is repaired: unchanged, or as corrected in a file. None is
    sent twice, whatever dies meanwhile. One that is still bad comes back as a new dead letter.

    Examples: `portwatch dlq replay --reason bad-port`, `portwatch dlq replay --partition 3 --from 1200 --to 1300`,
    `portwatch dlq replay --repaired good.jsonl`
    """
    from streams import dlq

    if not (reason or everything or partition is not None or repaired):
        raise typer.BadParameter("say which: --reason, --partition, --all or --repaired")
    choice = _choice(reason, partition, start, end)
    repairs = dlq.repaired(repaired) if repaired else None
    done = on_kafka(lambda settings: dlq.replay(settings, choice, repairs))
    typer.echo("\n".join(f"{count:,} {name}" for name, count in done.sent.most_common()) or "nothing to send")
    if done.cut:
        say(f"{done.cut:,} do not hold all of their record and stay: `dlq show` tells its origin")
    if repairs and (rest := len(repairs) - done.sent.total()):
        say(f"{rest:,} of the file were sent before, are gone or are not among those chosen")


def _choice(reasons: list[str] | None, partition: int | None, start: int, end: int | None) -> "Choice":
    from streams.dlq import ALL_REASONS, Choice

    unknown = sorted(set(reasons or ()) - ALL_REASONS)
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is not one of {', '.join(sorted(ALL_REASONS))}", param_hint="--reason"
        )
    if partition is None and (start or end is not None):
        raise typer.BadParameter("--from and --to are offsets of one partition: say --partition")
    whole = Choice(frozenset(reasons or ()), partition)
    return Choice(whole.reasons, partition, start, whole.end if end is None else end)


# ---- state

StateDir = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder with a file for each partition.", file_okay=False)
]


@state_app.command("show")
def state_show() -> None:
    """Say what is in the checkpoint of every partition: where it stands, how old and how large it is, what it counted.

    Example: `portwatch state show`
    """
    _show_state()


@state_app.command("verify")
def state_verify() -> None:
    """Read every checkpoint to the last byte and check that it adds up; exit 1 if one does not.

    Example: `portwatch state verify`
    """
    if any(one.wrong for one in _show_state()):
        raise typer.Exit(COULD_NOT)


def _show_state() -> "list[Saved]":
    import time

    from streams import state

    found = on_kafka(state.read)
    show(state.table(found, int(time.time() * 1_000)))
    for one in found:
        if one.wrong:
            say(f"partition {one.partition}: {one.wrong}")
    return found


@state_app.command("export")
def state_export(folder: StateDir) -> None:
    """Copy the state of every partition to files; workers may go on meanwhile.

    Example: `portwatch state export backup/`
    """
    from streams import state

    for file in state.export(on_kafka(state.read), folder):
        typer.echo(file)


@state_app.command("restore")
def state_restore(folder: StateDir) -> None:
    """Go back to an exported state: workers, which must be stopped, then go on from its offsets.

    Submits that were counted since are counted again, as far as Kafka still has them.

    Example: `portwatch state restore backup/`
    """
    from streams import state

    states = state.exported(folder)
    for partition, offset in on_kafka(lambda settings: state.restore(settings, states)).items():
        typer.echo(f"partition {partition} goes on at {offset:,}")


# ---- feeds

SubmitFile = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Submits, one JSON object a line.")
]
LogFile = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Access log, as bearerbox writes it.")
]
Follow = Annotated[bool, typer.Option("--follow", help="Go on with what is written later, as tail -F does.")]
Speed = Annotated[
    float | None, typer.Option(help="Event time at so many times real time; absent = as fast as possible.", min=0.001)
]


@feed_app.command("jsonl")
def feed_jsonl(file: SubmitFile, speed: Speed = None, *, follow: Follow = False) -> None:
    """Send a file of submits, one JSON object a line.

    Example: `portwatch feed jsonl submits.jsonl --speed 60`
    """
    from streams.feeds.jsonl import SubmitLines

    _feed(SubmitLines(), file, follow=follow, speed=speed)


@feed_app.command("kannel")
def feed_kannel(
    file: LogFile,
    registry: Annotated[Path | None, typer.Option(help="Registry folder: tells main port from extension.")] = None,
    timezone: Annotated[str, typer.Option(help="Zone of the gateway's clock.")] = "Asia/Shanghai",
    gateway_id: Annotated[str | None, typer.Option(help="Name of this gateway.")] = None,
    speed: Speed = None,
    *,
    follow: Follow = False,
) -> None:
    """Send the submits of a Kannel access log.

    Example: `portwatch feed kannel /var/log/kannel/access.log --follow --registry registry/`
    """
    from streams.feeds.kannel import AccessLog
    from streams.registry import load_folder

    ports = {lease.access_port for lease in load_folder(registry).ports} if registry else ()
    try:
        adapter = AccessLog(ports=ports, timezone=timezone, gateway_id=gateway_id)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _feed(adapter, file, follow=follow, speed=speed)


def _feed(adapter: "Adapter", file: Path, *, follow: bool, speed: float | None) -> None:
    from streams.feeds.producer import run
    from streams.settings import load_settings

    if not run(adapter, file, load_settings(), follow=follow, speed=speed).is_complete:
        raise typer.Exit(COULD_NOT)


# ---- judging

SubmitFiles = Annotated[
    list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="Submits, one JSON object a line.")
]
RegistryFolder = Annotated[
    Path, typer.Option(help="Registry folder to judge by.", exists=True, file_okay=False, show_default=False)
]


@app.command(rich_help_panel=RUN)
def worker() -> None:
    """Run the service: read submits, judge, write alerts. Start more of them to share the work.

    Everything is set by PORTWATCH_...; SIGTERM or Ctrl-C ends it with a last checkpoint. Metrics, /healthz and /readyz
    are at PORTWATCH_HTTP_HOST:PORTWATCH_HTTP_PORT.

    Example: `PORTWATCH_BOOTSTRAP_SERVERS=kafka:9092 portwatch worker`
    """
    from streams.settings import load_settings
    from streams.worker.service import live

    live(load_settings())


@app.command(rich_help_panel=TRY)
def replay(
    files: SubmitFiles,
    registry: RegistryFolder,
    out: Annotated[Path, typer.Option(help="Alerts, one lifecycle change a line.", show_default=False)],
    summary: Annotated[Path | None, typer.Option(help="Counts of what became of every submit, as JSON.")] = None,
    dlq: Annotated[Path | None, typer.Option(help="Rejected lines with their reasons.")] = None,
    state_in: Annotated[Path | None, typer.Option(help="Go on from this state, or start with this history.")] = None,
    state_out: Annotated[
        Path | None, typer.Option(help="Save the state at the end of the files; what is open then stays open.")
    ] = None,
    from_time: Annotated[str | None, typer.Option("--from", help="First event time: ISO 8601 or epoch ms.")] = None,
    to_time: Annotated[str | None, typer.Option("--to", help="Event time to stop before.")] = None,
) -> None:
    """Judge submits from files, without a broker: the same pipeline as the worker's, with a summary at the end.

    Example: `portwatch replay submits.jsonl --registry registry/ --out alerts.jsonl --summary summary.json`
    """
    import orjson

    from streams.registry import load_folder
    from streams.replay import Span, run

    span = Span(_time("--from", from_time), _time("--to", to_time))
    counts = run(files, load_folder(registry), out, dlq=dlq, state_in=state_in, state_out=state_out, span=span)
    text = orjson.dumps(counts, option=orjson.OPT_INDENT_2).decode()
    if summary:
        summary.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


def _time(option: str, value: str | None) -> int | None:
    from streams.registry import RowError, time_ms

    try:
        return None if value is None else time_ms(option, int(value) if value.isdecimal() else value)
    except RowError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


@app.command(rich_help_panel=RUN)
def learn(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="HISTORY...",
            exists=True,
            dir_okay=False,
            help="Counts, one JSON object a line: access_port, start_ms, submits, in slices of 5 min or finer.",
        ),
    ],
    registry: RegistryFolder,
    state_out: Annotated[Path, typer.Option(help="State file to write.", show_default=False)],
) -> None:
    """Learn what is usual from old counts, so that volume alerts work from the first minute (PORTWATCH_STATE_IN).

    Example: `portwatch learn history.jsonl --registry registry/ --state-out learnt.state`
    """
    from streams.learn import learn_files
    from streams.registry import load_folder

    say(f"learnt the history of {learn_files(files, load_folder(registry), state_out):,} ports")


@backtest_app.command("counts")
def backtest_counts(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE.csv... | DIR",
            exists=True,
            help="Series, a file each, with the columns timestamp and value; or a folder of them.",
            show_default=False,
        ),
    ],
    tick: Annotated[
        str | None, typer.Option(metavar="10s..1d", help="Length of a tick.", show_default="inferred, per file")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; a folder for several inputs, or for a folder.", show_default="stdout"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it as well: a PNG file, or a folder for several.", show_default=False)
    ] = None,
) -> None:
    """Judge series of your own tick by tick, as if they came in just now: what was expected, how odd is what came?

    Out comes timestamp,observed,expected,low,high,surprise,alert: low to high is the usual range, surprise is -log10 of
    the chance to be that far off, alert is 1 while an episode is open. Nothing has to be set: docs/backtest.md.

    Examples: `portwatch backtest counts 2025.csv --out scores.csv --plot scores.png`,
    `portwatch backtest counts ports/ --tick 5m --out scores/`
    """
    from streams.backtest import counts
    from streams.backtest.ticks import TickError, tick_ms

    try:
        tick_of_all = tick_ms(tick) if tick else None
        places = counts.jobs(paths, out, plot)
    except (TickError, counts.UsageError) as error:
        raise typer.BadParameter(str(error), param_hint="--tick" if isinstance(error, TickError) else None) from None
    draw: counts.Draw | None = None
    if plot:
        from streams.backtest import picture

        draw = picture.draw
    reports = counts.run(places, tick_of_all, draw, say)
    for line in counts.summary(reports):
        say(line)
    if len(reports) < len(places):
        raise typer.Exit(COULD_NOT)


@app.command(rich_help_panel=TRY)
def demo(
    speed: Annotated[float, typer.Option(help="Event time at so many times real time.", min=1)] = 600.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same morning.", min=0)] = 1,
    *,
    short: Annotated[bool, typer.Option("--short", help="80 minutes of the morning instead of four hours.")] = False,
) -> None:
    """Watch a simulated festival morning on the embedded broker: nothing else is needed.

    Example: `portwatch demo --short`
    """
    from streams.demo import demo as play

    if not play(short=short, speed=speed, seed=seed):
        raise typer.Exit(COULD_NOT)


# ---- the rest


@app.command(rich_help_panel=REPAIR)
def doctor() -> None:
    """Say what is reachable, which versions run, which settings are in force, and what to do about what is wrong.

    Example: `portwatch doctor`
    """
    from streams.doctor import examine
    from streams.settings import load_settings

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    report = asyncio.run(examine(load_settings()))
    show(*report.tables())
    if not report.is_well:
        raise typer.Exit(COULD_NOT)


def _list_scenarios(*, asked: bool) -> None:
    if asked:
        from streams.simulate.scenarios import SCENARIOS

        typer.echo("\n".join(f"{name}: {scenario.about}" for name, scenario in SCENARIOS.items()))
        raise typer.Exit


@app.command(rich_help_panel=TRY)
def simulate(
    scenario: Annotated[str, typer.Option(help="What happens; see --list.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False, show_default=False)],
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.", min=0)] = 1,
    scale: Annotated[float, typer.Option(help="Multiplies the background traffic.")] = 1.0,
    *,
    _list: Annotated[
        bool, typer.Option("--list", help="List the scenarios.", is_eager=True, callback=_list_scenarios)
    ] = False,
) -> None:
    """Draw made-up traffic with known incidents: submits.jsonl, registry/, and labels.jsonl that says what is what.

    Example: `portwatch simulate --scenario quiet-day --seed 7 --out quiet/`
    """
    from rich.progress import Progress

    from streams.simulate import scenarios

    try:
        simulation = scenarios.simulate(scenario, seed, scale)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(scenario, total=1.0)
        scenarios.write(simulation, out, lambda share: progress.update(task, completed=share))
    say(f"wrote {out}")


if __name__ == "__main__":
    main()
