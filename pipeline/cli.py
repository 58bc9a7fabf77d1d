"""The `surgeline` command."""

import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline import __version__
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.inbound_verdict import FhirVersion
from pipeline.settings import Settings, SettingsError, load, masked

HELP = """Keeps hospital capacity systems and the EHR consistent while the hospital is under surge.

Start with `surgeline demo`: it needs nothing but this machine. For your own cluster, copy surgeline.example.yaml to
surgeline.yaml, then `surgeline topics apply`, `surgeline policy apply`, and `surgeline run` each role.
"""

app = typer.Typer(name="surgeline", help=HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
run = typer.Typer(help="Run one role in the foreground until SIGTERM.", no_args_is_help=True)
topics = typer.Typer(help="The topics of the cluster: what differs from their declarations.", no_args_is_help=True)
policy = typer.Typer(help="Who may say what, and which lane a change takes.", no_args_is_help=True)
feeds = typer.Typer(help="Two feeds of one source: how they compare, and which is live.", no_args_is_help=True)
config = typer.Typer(help="The settings.", no_args_is_help=True)
audit = typer.Typer(help="The audit log.", no_args_is_help=True)
schemas = typer.Typer(help="The Avro schemas.", no_args_is_help=True)
shadow = typer.Typer(help="Writes that flags let only be compared.", no_args_is_help=True)
for name, group in (
    ("run", run),
    ("topics", topics),
    ("policy", policy),
    ("feeds", feeds),
    ("config", config),
    ("audit", audit),
    ("schemas", schemas),
    ("shadow", shadow),
):
    app.add_typer(group, name=name)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; else $SURGELINE_CONFIG, else ./surgeline.yaml.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
console = Console()


def main() -> None:
    """Entry point."""
    app()


def _settings(path: Path | None, role: str | None = None) -> Settings:
    try:
        return load(path, role=role)
    except SettingsError as error:
        _fail(str(error), 78)


def _fail(text: str, code: int = 1) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(code)


def _now() -> Millis:
    return Millis(time.time_ns() // 1_000_000)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


# -- run


@run.command("gate")
def run_gate(config: Config = None) -> None:
    """Judge landing records: duplicate? stale? not theirs to say? nothing new? Else a new revision, by lane."""
    from pipeline.roles.gate import GateRole
    from pipeline.roles.process import run_role

    settings = _settings(config, "gate")
    raise typer.Exit(run_role(settings, "gate", settings.gate.instance, GateRole))


@run.command("writer")
def run_writer(
    destination: Annotated[str, typer.Argument(help="A name under `writers` in the settings.")], config: Config = None
) -> None:
    """Bring the newest state of each entity to one destination, most urgent first."""
    from pipeline.roles.process import run_role
    from pipeline.roles.writer import WriterRole

    settings = _settings(config, "writer")
    section = settings.writers.get(destination)
    instance = section.instance if section else "0"
    raise typer.Exit(run_role(settings, f"writer-{destination}", instance, lambda process: WriterRole(process, destination)))


@run.command("http")
def run_http(config: Config = None) -> None:
    """Take events by HTTP."""
    from pipeline.roles.intake import HttpRole
    from pipeline.roles.process import run_role

    raise typer.Exit(run_role(_settings(config, "http"), "http", "0", HttpRole))


@run.command("mllp")
def run_mllp(config: Config = None) -> None:
    """Take HL7 v2 messages over MLLP."""
    from pipeline.roles.intake import MllpRole
    from pipeline.roles.process import run_role

    raise typer.Exit(run_role(_settings(config, "mllp"), "mllp", "0", MllpRole))


@run.command("fhir")
def run_fhir(config: Config = None) -> None:
    """Subscribe at FHIR servers, take their notifications, and read again what was missed."""
    from pipeline.roles.fhir import FhirRole
    from pipeline.roles.process import run_role

    settings = _settings(config, "fhir")
    raise typer.Exit(run_role(settings, "fhir", settings.fhir.instance, FhirRole))


@run.command("timers")
def run_timers(config: Config = None) -> None:
    """End what is valid until a time: a bed's promise or block, a diversion."""
    from pipeline.roles.process import run_role
    from pipeline.roles.timers import TimersRole

    raise typer.Exit(run_role(_settings(config, "timers"), "timers", "0", TimersRole))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running and print the addresses.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Another surge for another number.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where data and logs go; emptied first.")] = Path(".surgeline/demo"),
) -> None:
    """Run the main job on this machine: a real Kafka, two real FHIR servers, and a surge of one minute.

    Exit code 0 only if the books balance and nothing is open.
    """
    from pipeline.local.demo import run_demo

    raise typer.Exit(run_demo(folder.resolve(), seed=seed, keep=keep, json_file=json_file, console=console))


# -- topics


@topics.command("plan")
def topics_plan(config: Config = None) -> None:
    """Show what `apply` would do; change nothing."""
    from pipeline.kafka import admin
    from pipeline.roles.process import specs_of

    settings = _settings(config)
    plan = _kafka(lambda: admin.plan(settings.kafka, specs_of(settings)))
    for topic in plan.create:
        console.print(f"create  {topic}")
    for change in plan.change:
        console.print(f"change  {change.topic}: {change.name} {change.before} -> {change.after}")
    for problem in plan.refuse:
        console.print(f"refuse  {problem}")
    console.print(f"{len(plan.unchanged)} unchanged")
    raise typer.Exit(1 if plan.refuse else 0)


@topics.command("apply")
def topics_apply(
    config: Config = None,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="A landing topic was made anew on purpose: begin its next epoch.")
    ] = False,
) -> None:
    """Create and change topics as declared, and record the epochs of the landing topics. Safe to repeat."""
    from pipeline.kafka import admin
    from pipeline.roles.operator_log import epoch_entries
    from pipeline.roles.process import codec_of, specs_of

    settings = _settings(config)
    codec = codec_of(settings)
    told = epoch_entries(settings, codec) if new_epoch else lambda _: []
    applied = _kafka(
        lambda: admin.apply(settings.kafka, specs_of(settings), codec, _actor(), _now(), new_epoch=new_epoch, told=told)
    )
    console.print(
        f"{len(applied.plan.create)} created, {len(applied.plan.change)} changed, {len(applied.recorded)} epochs recorded"
    )
    for refused in applied.refused:
        typer.echo(f"refused: {refused}", err=True)
    raise typer.Exit(1 if applied.refused else 0)


@topics.command("check")
def topics_check(config: Config = None) -> None:
    """Say what a role would refuse to start with."""
    from pipeline.kafka import admin
    from pipeline.roles.process import codec_of, specs_of

    settings = _settings(config)
    problems = _kafka(lambda: admin.check(settings.kafka, specs_of(settings), codec_of(settings)))
    for problem in problems:
        typer.echo(str(problem), err=True)
    console.print(f"{len(problems)} problem(s)")
    raise typer.Exit(1 if problems else 0)


# -- policy


@policy.command("show")
def policy_show(
    folder: Annotated[Path | None, typer.Option(help="Folder with ownership.yaml and lanes.yaml; else the shipped ones.")] = None,
) -> None:
    """Check a policy and print its version."""
    from pipeline.domain.policy import BadPolicy
    from pipeline.roles.policies import load_policy

    try:
        console.print(load_policy(folder).version)
    except BadPolicy as error:
        _fail("\n".join(error.problems))


@policy.command("apply")
def policy_apply(
    reason: Annotated[str, typer.Option(help="Why; goes into the record.")],
    folder: Annotated[Path | None, typer.Option(help="Folder with ownership.yaml and lanes.yaml; else the shipped ones.")] = None,
    config: Config = None,
) -> None:
    """Put a policy into force from now on, in every partition of every landing topic."""
    from pipeline.domain.policy import BadPolicy
    from pipeline.roles.policies import apply_policy, load_policy
    from pipeline.roles.process import codec_of

    settings = _settings(config)
    try:
        chosen = load_policy(folder)
    except BadPolicy as error:
        _fail("\n".join(error.problems))
    told = _kafka(lambda: apply_policy(settings, codec_of(settings), chosen, _actor(), reason, _now()))
    console.print(f"{chosen.version}: in force from the next record on, in {told} partitions")


# -- feeds


@feeds.command("compare")
def feeds_compare(
    source_system: Annotated[str, typer.Argument(help="The source that both feeds speak for.")],
    first: Annotated[str, typer.Argument(help="Feed to compare with, e.g. the HL7 v2 one.")],
    second: Annotated[str, typer.Argument(help="Feed that is to agree with it, e.g. the FHIR one.")],
    hours: Annotated[float, typer.Option(help="How far back to look.", min=0.01, max=336)] = 24.0,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare what two feeds of one source said: agreement and delay per field, and where they end apart."""
    import msgspec

    from pipeline.domain.identifiers import Millis
    from pipeline.ops.logs import subject
    from pipeline.ops.render_feeds import feeds_table
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.feeds import compare
    from pipeline.roles.process import codec_of

    settings = _settings(config)
    now = _now()
    since = Millis(now - int(hours * 3_600_000))
    topics = KafkaTopics(settings.kafka)
    found = _kafka(lambda: compare(topics, codec_of(settings), source_system, (first, second), since, now))
    digest_key = settings.digest_key()
    if as_json:
        shown = msgspec.structs.replace(found, different=tuple(subject(key.encode(), digest_key) for key in found.different))
        typer.echo(msgspec.json.encode(shown).decode())
    else:
        console.print(feeds_table(found, lambda key: subject(key.encode(), digest_key)))


@feeds.command("live")
def feeds_live(
    source_system: Annotated[str, typer.Argument(help="The source.")],
    feed: Annotated[str, typer.Argument(help="Its feed that is applied from now on; its others are only compared.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the audit log.")],
    facility: Annotated[str | None, typer.Option(help="Only at this facility; else wherever none has its own.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")] = False,
    config: Config = None,
) -> None:
    """Name the live feed of a source. Naming the former one again rolls back."""
    from pipeline.domain.policy import Live
    from pipeline.roles.feeds import go_live
    from pipeline.roles.process import codec_of

    settings = _settings(config)
    place = facility or "every facility without its own"
    if not yes:
        console.print(f"Would make {feed} the live feed of {source_system} at {place}. Add --yes to do it.")
        return
    live = Live(source_system, feed, facility)
    before, policy = _kafka(lambda: go_live(settings, codec_of(settings), live, _actor(), reason, _now()))
    console.print(f"{feed} is live for {source_system} at {place}, by policy {policy.version}.")
    back = f"surgeline feeds live {source_system} {before}" if before else "surgeline policy apply, without this rule"
    console.print(f"Before: {before or 'all feeds were applied'}. To go back: {back}")


# -- looking


@app.command("map")
def map_files(
    files: Annotated[
        list[Path],
        typer.Argument(help="HL7 v2 messages, FHIR resources or bundles, or JSON events (one object, a list, or a line each)."),
    ],
    profile: Annotated[str, typer.Option(help="HL7 profile.")] = "default",
    tenant: Annotated[str, typer.Option(help="Organisation.")] = "demo",
    ehr_profile: Annotated[str, typer.Option(help="Profile of the EHR that FHIR files are from.")] = "sekmet-owner",
    facility: Annotated[str, typer.Option(help="Site, where a FHIR file names none.")] = "MAIN",
    server: Annotated[str, typer.Option(help="Name of that EHR: the source system of its events.")] = "ehr",
    fhir_version: Annotated[FhirVersion, typer.Option(help="FHIR version of the files.")] = "R4",
    digest_key_file: Annotated[
        Path | None, typer.Option(help="The writers' key: without it, what we wrote can't be told from edits.")
    ] = None,
) -> None:
    """Print the canonical events that files would make, as JSON lines; needs no broker.

    A rejected input is one object with file, rejected and detail (exit code 1); one that is ignored by rule is one
    object with file, ignored and detail (exit code 0).
    """
    from pipeline.roles.intake import hl7_profile
    from pipeline.roles.mapping import ehr_of, map_file
    from pipeline.roles.process import Refused

    try:
        chosen = hl7_profile(profile)
        ehr = ehr_of(ehr_profile, tenant, facility, server, fhir_version, digest_key_file)
    except Refused as error:
        _fail("\n".join(error.problems), 2)
    rejected = False
    for file in files:
        for line in map_file(file, chosen, tenant, _now(), ehr):
            rejected = rejected or "rejected" in line
            sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()
    raise typer.Exit(1 if rejected else 0)


@app.command()
def books(
    config: Config = None,
    as_json: AsJson = False,
    wait_s: Annotated[float, typer.Option(help="Wait so long for what is open.")] = 0.0,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Also compare each entity with what its destination shows.")] = True,
) -> None:
    """Prove that nothing was lost: from the topics and the destinations, not from any counter.

    Exit code 0 if the books balance. What is open or waits is shown, and is no fault.
    """
    from pipeline.ops.books import exit_code
    from pipeline.ops.render_books import books_json, render_books
    from pipeline.roles.accounts import close_books

    settings = _settings(config)
    result, asked = _kafka(lambda: close_books(settings, open_s=wait_s, ask=ask))
    if as_json:
        sys.stdout.buffer.write(books_json(result, asked) + b"\n")
    else:
        console.print(render_books(result, asked, _now()))
    raise typer.Exit(exit_code(result, asked))


@app.command()
def status(
    config: Config = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
) -> None:
    """Answer four questions per destination: current? delayed? what is stuck? what was last confirmed?"""
    from pipeline.ops.render_status import render_status, status_json
    from pipeline.roles.accounts import current_status

    settings = _settings(config)
    if as_json:
        sys.stdout.buffer.write(status_json(_kafka(lambda: current_status(settings))) + b"\n")
        return
    if not watch:
        console.print(render_status(_kafka(lambda: current_status(settings))))
        return
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(render_status(_kafka(lambda: current_status(settings))), refresh=True)
                time.sleep(1)
        except KeyboardInterrupt:
            return


@app.command()
def reassert(
    entity_type: Annotated[EntityType, typer.Argument(help="What it is, e.g. bed.")],
    namespace: Annotated[str, typer.Argument(help="Assigning authority.")],
    entity_id: Annotated[str, typer.Argument(help="Identifier, e.g. ICU/12/A.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the audit log.")],
    tenant: Annotated[str | None, typer.Option(help="Organisation; else tenant_default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")] = False,
    config: Config = None,
) -> None:
    """Send one entity's current state to every destination again; frees a parked one.

    Carries no value: the gate sends what it holds, and nothing if something newer was accepted meanwhile.
    """
    from pipeline.domain.identifiers import EntityKey, show_revision
    from pipeline.roles.process import codec_of
    from pipeline.roles.repair import find
    from pipeline.roles.repair import reassert as order

    settings = _settings(config)
    codec = codec_of(settings)
    key = EntityKey(tenant or settings.tenant_default, entity_type.value, namespace, entity_id)
    found = _kafka(lambda: find(settings, codec, key))
    if not found.revision:
        _fail("Nothing is known of this entity in the history. Check type, namespace, identifier and tenant.")
    told = f"revision {show_revision(found.revision)}, the newest of {found.revisions}"
    if not yes:
        console.print(f"Would send {told} again. Add --yes to do it.")
        return
    _kafka(lambda: order(settings, codec, key, found.revision, _actor(), reason, _now()))
    console.print(f"Ordered: {told}. `surgeline audit show --action reassert` shows it.")


@config.command("show")
def config_show(config: Config = None) -> None:
    """Print the settings in force; secrets are masked."""
    typer.echo(json.dumps(masked(_settings(config)), indent=2))


@audit.command("show")
def audit_show(
    config: Config = None,
    as_json: AsJson = False,
    chain: Annotated[str | None, typer.Option(help="Only chains that begin so.")] = None,
    action: Annotated[str | None, typer.Option(help="Only actions that begin so, e.g. write.confirmed.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.")] = 50,
) -> None:
    """Print audit entries, oldest first."""
    from pipeline.ops.audit import AuditFilter, read_entries, render_entries, show
    from pipeline.ops.audit import as_json as encoded
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = _settings(config)
    wanted = AuditFilter(chain=chain, action=action, destination=destination)
    entries = _kafka(lambda: show(read_entries(KafkaTopics(settings.kafka), codec_of(settings)), wanted, limit))
    if as_json:
        sys.stdout.buffer.write(encoded(entries) + b"\n")
    else:
        console.print(render_entries(entries))


@audit.command("verify")
def audit_verify(config: Config = None, as_json: AsJson = False) -> None:
    """Verify every chain: a changed, missing or reordered entry is named. Exit code 1 if there is one."""
    from pipeline.ops.audit import as_json as encoded
    from pipeline.ops.audit import read_entries, render_verified, verify_all
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = _settings(config)
    verified = _kafka(lambda: verify_all(read_entries(KafkaTopics(settings.kafka), codec_of(settings))))
    if as_json:
        sys.stdout.buffer.write(encoded(verified) + b"\n")
    else:
        console.print(render_verified(verified))
    raise typer.Exit(0 if verified.whole else 1)


@shadow.command("report")
def shadow_report(
    config: Config = None,
    as_json: AsJson = False,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
) -> None:
    """Say what the writes that were only compared would have changed: counts by destination, entity type and field."""
    from pipeline.ops.shadow import read_shadows, render_shadows, shadows_json
    from pipeline.ops.topics import KafkaTopics
    from pipeline.roles.process import codec_of

    settings = _settings(config)
    found = _kafka(lambda: read_shadows(KafkaTopics(settings.kafka), codec_of(settings), destination))
    if as_json:
        sys.stdout.buffer.write(shadows_json(found) + b"\n")
    else:
        console.print(render_shadows(found, _now()))


@shadow.command("check")
def shadow_check(
    file: Annotated[Path | None, typer.Argument(help="Flags file; else flags_file of the settings.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Organisation; else tenant_default.")] = None,
    config: Config = None,
) -> None:
    """Say what a flags file lets be written at each destination, or what is wrong with it. Exit code 1 if it is."""
    from pipeline.ops.shadow import render_rules
    from pipeline.roles.flags import rules_of
    from pipeline.roles.process import Refused

    settings = _settings(config)
    who = tenant or settings.tenant_default
    try:
        rules = rules_of(settings, file or settings.flags_file, who)
    except Refused as refused:
        _fail("\n".join(refused.problems))
    console.print(render_rules(rules, who))


@schemas.command("check")
def schemas_check() -> None:
    """Check that the committed schemas are those of the code, and compatible with every earlier version."""
    from pipeline.formats.avro.author import main as author

    raise typer.Exit(author(["--check"]))


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="gate: judge records, no broker; parse: read HL7 v2 messages; ehr: write to a stand-in EHR that has a cap."
        ),
    ],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--assert", help="Exit 1 where the goal is not reached.")] = False,
) -> None:
    """Measure: gate and parse in CPU time of this process, ehr in what is reached of the cap."""
    from pipeline.local.bench_ehr import bench_ehr
    from pipeline.roles.bench import BENCHES

    benches: dict[str, Callable[[], Any]] = {**BENCHES, "ehr": bench_ehr}
    if what not in benches:
        _fail(f"{what}: there is no such bench; known: {', '.join(sorted(benches))}", 2)
    figures = benches[what]()
    table = Table("figure", "value", title=f"bench {what}")
    for name, value in _rows_of(msgspec.to_builtins(figures)):
        table.add_row(name, value)
    console.print(table)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    raise typer.Exit(1 if check and not figures.reached else 0)


def _rows_of(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values; a list's items follow their own names."""
    for name, value in figures.items():
        if isinstance(value, list | tuple):
            for item in value:
                yield from _rows_of(item)
        else:
            yield name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else str(value)


def _actor() -> str:
    return f"operator:{getpass.getuser()}"


def _kafka(work: Callable[[], Any]) -> Any:
    from pipeline.kafka.client import KafkaUnavailable

    try:
        return work()
    except KafkaUnavailable as error:
        _fail(f"Kafka does not answer ({error}). Check kafka.bootstrap_servers in the settings.", 75)
