"""What the documents say is so: names exist, links lead somewhere, rendered pages are those of the code, nothing is left out."""

import importlib
import importlib.util
import pkgutil
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import typer

import pipeline
from pipeline import topology
from pipeline.cli import app
from pipeline.domain.accounts.deliveries import Trouble
from pipeline.domain.event import Described
from pipeline.domain.records import Reason
from pipeline.domain.writing.modes import Mode
from pipeline.kafka.render import DAY_MS
from pipeline.kafka.specs import UNLIMITED, TopicSpec, load_templates
from pipeline.ops import log_catalogue
from pipeline.ops.log_catalogue import CATALOGUE as LINES
from pipeline.ops.log_catalogue import LogEvent
from pipeline.ops.metrics import CATALOGUE as METRICS
from pipeline.ops.reference import policies as policy_reference
from pipeline.ops.reference import settings as settings_reference
from pipeline.ops.watchdog import CODES
from pipeline.resources import topics_dir
from pipeline.settings.model import Settings

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PAGES: Final = tuple(
    sorted((*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")), key=lambda page: page.relative_to(REPOSITORY))
)
COMMENTED: Final = (REPOSITORY / "surgeline.example.yaml", *sorted((REPOSITORY / "topics").glob("*.yaml")))
RUNBOOK: Final = REPOSITORY / "docs/operating/runbook.md"
PHI: Final = REPOSITORY / "docs/phi.md"

FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE: Final = re.compile(r"`([^`\n]+)`")
LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def everything() -> str:
    return "\n".join(map(text_of, PAGES))


def prose_of(page: Path) -> str:
    """The text without its code blocks."""
    return FENCE.sub("", text_of(page))


# -- rendered pages


@pytest.mark.parametrize(
    ("page", "rendered", "command"),
    [
        (policy_reference.PAGE, lambda: policy_reference.render(policy_reference.shipped_policy()), "policy_reference"),
        (settings_reference.PAGE, settings_reference.render, "settings_reference"),
    ],
    ids=["policies", "settings"],
)
def test_a_rendered_page_says_what_the_code_says(page: Path, rendered: Any, command: str) -> None:
    assert text_of(REPOSITORY / page) == rendered(), f"run: python -m pipeline.ops.{command}"


def test_every_rendering_module_that_contributing_names_exists() -> None:
    named = set(re.findall(r"python -m ([\w.]+)", everything()))
    assert "pipeline.ops.reference.policies" in named
    assert [module for module in sorted(named) if importlib.util.find_spec(module) is None] == []


# -- nothing is left out


def described_enums() -> set[type[Described]]:
    """Every enum of the package whose symbols explain themselves."""
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if module.name.split(".")[1] in ("domain", "formats", "sources", "destinations", "kafka", "ops"):
            importlib.import_module(module.name)
    return {enum for enum in Described.__subclasses__() if enum.__module__.startswith("pipeline.")}


def test_the_glossary_holds_every_status_that_has_a_meaning() -> None:
    listed = {enum for enums in policy_reference.GLOSSARY.values() for enum in enums}
    assert {enum.__qualname__ for enum in described_enums() - listed} == set()


def leaves(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[str]:
    """Names of the settings below a node of the settings' JSON schema: an enumeration that the renderer has no part in."""
    for part in (node, *node.get("anyOf", ()), *node.get("allOf", ())):
        if "$ref" in part:
            yield from leaves(schema, schema["$defs"][part["$ref"].rpartition("/")[2]])
        for inner in (part.get("items"), part.get("additionalProperties"), *part.get("patternProperties", {}).values()):
            if isinstance(inner, dict):
                yield from leaves(schema, inner)
        for name, value in part.get("properties", {}).items():
            yield from leaves(schema, value) if "$ref" in str(value) else (name,)


def test_every_setting_is_documented() -> None:
    schema = Settings.model_json_schema(by_alias=True)
    names = set(leaves(schema, schema))
    shown = {name.rpartition(".")[2] for name in INLINE.findall(text_of(REPOSITORY / "docs/settings.md"))}
    assert {"bootstrap_servers", "token_sha256", "critical", "key_id"} <= names
    assert names - shown == set()


USED_BY_A_METHOD: Final = frozenset({"digest_key_file", "token_sha256", "critical", "urgent", "routine", "bulk", "json"})
"""Settings that the code reads by a method of the settings themselves, or by the name of a lane."""


def test_every_setting_has_an_effect() -> None:
    sections = sorted((REPOSITORY / "pipeline/settings/sections").glob("*.py"))
    methods = " ".join(re.findall(r"self\.\w+", "".join(file.read_text(encoding="utf-8") for file in sections)))
    code = methods + "".join(
        file.read_text(encoding="utf-8")
        for file in sorted((REPOSITORY / "pipeline").rglob("*.py"))
        if "settings" not in file.parts
    )
    names = {setting.name.rpartition(".")[2] for setting in settings_reference.settings_of()} - USED_BY_A_METHOD
    assert [name for name in sorted(names) if not re.search(rf"\.{name}\b", code)] == []


def test_every_metric_line_reason_and_topic_is_documented() -> None:
    names = [*METRICS, *LINES, *(reason.value for reason in Reason), *topology.every_topic()]
    assert [name for name in names if f"`{name}`" not in everything()] == []


def test_every_environment_variable_that_the_code_reads_is_documented() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in (REPOSITORY / "pipeline").rglob("*.py"))
    used = set(re.findall(r"\"(SURGELINE_[A-Z_]+[A-Z])\"", code))
    documented = set(re.findall(r"SURGELINE_[A-Z_]+[A-Z]", everything()))
    nested = {name for name in used if "__" in name}
    assert used - nested - documented == set()


# -- what is named exists


def command_lines() -> Iterator[tuple[str, str]]:
    """Each use of `surgeline` in the documents, in commented files and in the log lines' meanings."""
    for page in PAGES:
        for _, block in FENCE.findall(text_of(page)):
            for line in block.splitlines():
                stripped = re.sub(r"^(?:\s*[A-Z_]+=\S+)*\s*", "", line)
                if stripped.startswith("surgeline "):
                    yield name_of(page), stripped
        yield from ((name_of(page), code) for code in INLINE.findall(prose_of(page)) if re.match(r"surgeline( |$)", code))
    for file in COMMENTED:
        yield from ((name_of(file), code) for code in INLINE.findall(text_of(file)) if re.match(r"surgeline( |$)", code))
    for line in LINES.values():
        yield from ((line.name, code) for code in INLINE.findall(line.doc) if re.match(r"surgeline( |$)", code))


def subcommands(command: Any) -> dict[str, Any]:
    """Commands of a group; of a command none. By name, because typer brings a click of its own."""
    return dict(getattr(command, "commands", {}))


def problem_of(line: str) -> str | None:
    """What is wrong with a command line; None if each of its commands and options exists."""
    words = shlex.split(line.partition(" #")[0].replace("…", "x"))[1:]
    command: Any = typer.main.get_command(app)
    while words and subcommands(command) and not words[0].startswith("-"):
        name = words.pop(0).rstrip(",")
        if name not in subcommands(command):
            return f"no command {name}"
        command = subcommands(command)[name]
    options = {
        spelling: parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }
    takes_arguments = any(parameter.param_type_name == "argument" for parameter in command.params)
    while words:
        word = words.pop(0)
        option = options.get(word.partition("=")[0])
        if word.startswith("-") and option is None:
            return f"no option {word}"
        if option is not None and not option.is_flag and "=" not in word:
            words = words[1:]
        elif option is None and not takes_arguments:
            return f"takes no {word}"
    return None


def test_every_surgeline_command_in_the_documents_exists() -> None:
    lines = list(command_lines())
    assert len(lines) > 50
    wrong = [f"{where}: {line}: {problem}" for where, line in lines if (problem := problem_of(line)) is not None]
    assert wrong == []


@pytest.mark.parametrize(
    "line", ["surgeline bokos", "surgeline books --frobnicate", "surgeline topics plan now", "surgeline run xml"]
)
def test_a_command_that_is_not_there_is_found(line: str) -> None:
    assert problem_of(line) is not None


def test_every_command_that_the_map_names_exists() -> None:
    assert [stage.command for stage in topology.STAGES if stage.command and problem_of(stage.command)] == []


def test_every_command_is_documented() -> None:
    def all_of(command: Any, words: tuple[str, ...]) -> Iterator[str]:
        for name, inner in subcommands(command).items():
            yield from all_of(inner, (*words, name))
        if not subcommands(command):
            yield " ".join(words)

    assert [line for line in all_of(typer.main.get_command(app), ("surgeline",)) if line not in everything()] == []


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", everything(), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named - targets == set()


PLACES: Final = ("pipeline/", "tests/", "docs/", "topics/", "avro_schemas/", "loadtest/", ".ci/", "k8s/")


def test_every_path_in_the_documents_exists() -> None:
    missing = []
    for page in PAGES:
        for code in INLINE.findall(prose_of(page)):
            if code.startswith(PLACES) and " " not in code and not re.search(r"[A-Z]{4}|[{<…]", code.partition("#")[0]):
                path = code.split("::")[0].rstrip("/")
                if not (list(REPOSITORY.glob(path)) if "*" in path else (REPOSITORY / path).exists()):
                    missing.append(f"{name_of(page)}: {code}")
    assert missing == []


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#{1,6} +(.+?)\s*$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_internal_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for link in LINK.findall(prose_of(page)):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors_of(target)):
                broken.append(f"{name_of(page)}: {link}")
    assert broken == []


# -- the runbook


def test_the_runbook_has_a_place_for_each_mode_and_each_trouble_of_the_books_is_explained() -> None:
    assert {mode.value for mode in Mode} <= anchors_of(RUNBOOK)
    books = text_of(REPOSITORY / "docs/operating/books.md")
    assert [trouble.value for trouble in Trouble if f"`{trouble.value}`" not in books] == []


def test_the_runbook_says_what_each_exit_code_means() -> None:
    declared = set(CODES.values())
    for file in (REPOSITORY / "pipeline").rglob("*.py"):
        declared |= {
            int(code) for code in re.findall(r"^EXIT_\w+: Final = (\d+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        }
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", text_of(RUNBOOK), re.MULTILINE)}
    assert {70, 71, 75, 78, 82, 83, 84} <= declared
    assert declared - shown == set()


NEVER_OF_A_WRITE: Final = frozenset({Reason.SHADOW, Reason.ALREADY_THERE, Reason.DEADLINE_EXCEEDED})
"""Reasons after UNKNOWN_ENTITY that no write is parked or fails with: what was only compared, a confirmation, one never given."""


def test_what_the_glossary_says_is_not_given_is_named_nowhere_else() -> None:
    elsewhere = [
        (symbol, name_of(file))
        for file in sorted((REPOSITORY / "pipeline").rglob("*.py"))
        if not file.samefile(policy_reference.__file__)
        for symbol in policy_reference.NOT_GIVEN
        if re.search(rf"\b{type(symbol).__name__}\.{symbol.name}\b", file.read_text(encoding="utf-8"))
    ]
    assert elsewhere == []


def test_the_runbook_says_what_to_do_for_each_reason_that_a_write_can_be_stuck_with() -> None:
    reasons = list(Reason)
    of_writes = set(reasons[reasons.index(Reason.UNKNOWN_ENTITY) + 1 :]) - NEVER_OF_A_WRITE
    assert Reason.REFUSED_FORBIDDEN in of_writes
    assert [reason.value for reason in of_writes if f"| `{reason.value}` |" not in text_of(RUNBOOK)] == []


def test_the_runbook_says_what_to_do_for_each_reason_of_quarantine() -> None:
    code = "".join(
        (REPOSITORY / file).read_text(encoding="utf-8")
        for file in ("pipeline/domain/judging/gate.py", "pipeline/stream/judging/gate.py")
    )
    reasons = {*re.findall(r"Broken\(\s*Reason\.(\w+)", code), Reason.UNDECODABLE.value, Reason.UNKNOWN_SCHEMA.value}
    section = text_of(RUNBOOK).partition("## Quarantine")[2].partition("\n## ")[0]
    assert "FUTURE_TIME" in reasons
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in section] == []


def test_the_pages_for_the_night_lean_only_on_lines_and_metrics_that_the_code_really_makes() -> None:
    named = set(INLINE.findall(text_of(RUNBOOK))) | set(INLINE.findall(text_of(REPOSITORY / "docs/operating/running.md")))
    code = "".join(
        file.read_text(encoding="utf-8")
        for file in sorted((REPOSITORY / "pipeline").rglob("*.py"))
        if file.name not in ("log_catalogue.py", "reference.py")
    )
    lines = {constant: value.name for constant, value in vars(log_catalogue).items() if isinstance(value, LogEvent)}
    unused = {name for constant, name in lines.items() if not re.search(rf"\b{constant}\b", code)}
    used_metrics = set(re.findall(r"\b([A-Z_]+)\.of\(", code))
    declared = re.findall(
        r"^([A-Z_]+): Final = _\w+\(\s*\"(surgeline_\w+)\"", (REPOSITORY / "pipeline/ops/metrics.py").read_text(), re.MULTILINE
    )
    unused |= {name for constant, name in declared if constant not in used_metrics}
    assert len(declared) == len(METRICS)
    assert {name for name in named if name.partition("{")[0] in unused} == set()


# -- patient data


def kept(spec: TopicSpec) -> str:
    days = f"{spec.retention_ms // DAY_MS} days"
    if spec.retention_ms == UNLIMITED:
        return "for good, newest per key"
    return f"{days}, newest per key" if spec.compacted else days


def test_the_page_on_patient_data_lists_exactly_the_topics_that_hold_it_and_how_long() -> None:
    told = {}
    for row in text_of(PHI).partition("## Where it lives")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) == 4 and "`" in cells[0]:
            told |= dict.fromkeys(INLINE.findall(cells[0]), cells[3])
    declared = {spec.name: kept(spec) for spec in load_templates(topics_dir()) if spec.holds_patient_data}
    assert told == declared


def test_no_page_names_a_machine_or_a_person_at_work() -> None:
    assert [name_of(page) for page in PAGES if re.search(r"/(?:work|home|root|tmp)/\w", text_of(page))] == []


# -- the picture


def test_the_picture_of_the_readme_reads_in_light_and_dark_and_for_those_who_do_not_see_it() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\((\S+\.svg)\)", text_of(REPOSITORY / "README.md"))
    drawing = (REPOSITORY / picture).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in drawing
    assert "<title" in drawing
    assert "<desc" in drawing
