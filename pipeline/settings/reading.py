"""Settings: one `surgeline.yaml` and `SURGELINE_*` variables (`__` nests, the environment wins), read once at start.

`sections` name and document each setting, `rules` say what may not be combined.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as EnvironmentError_

from pipeline.settings.model import Settings
from pipeline.settings.rules.check import Problem, check
from pipeline.settings.sections.base import BASE_FOLDER, DEMO_KEY, DEMO_TOKEN, ClientConfig, LaneSeconds
from pipeline.settings.sections.kafka import KafkaSettings, SaslMaterial, SchemaRegistry
from pipeline.settings.sections.servers import ServerSettings
from pipeline.settings.sections.ways_in import FhirFeed, FhirSettings, HttpClient, HttpSettings, MllpSettings, RawEncryption
from pipeline.settings.sections.workers import (
    GateSettings,
    HealthSettings,
    Hl7OutSettings,
    LoggingSettings,
    WorkerSettings,
    WriterSettings,
)

__all__ = [
    "DEMO_KEY",
    "DEMO_TOKEN",
    "ClientConfig",
    "FhirFeed",
    "FhirSettings",
    "GateSettings",
    "HealthSettings",
    "Hl7OutSettings",
    "HttpClient",
    "HttpSettings",
    "KafkaSettings",
    "LaneSeconds",
    "LoggingSettings",
    "MllpSettings",
    "Problem",
    "RawEncryption",
    "SaslMaterial",
    "SchemaRegistry",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "WorkerSettings",
    "WriterSettings",
    "load",
    "masked",
]

PREFIX: Final = "SURGELINE_"
NESTING: Final = "__"
CONFIG_VARIABLE: Final = "SURGELINE_CONFIG"
DEFAULT_FILE: Final = "surgeline.yaml"
MASK: Final = "<set>"
MAX_PRUNINGS: Final = 3
"""Rounds in which wrong values are left out, so that the rules can judge the rest."""


Document = dict[str, Any]
"""Settings as YAML and the environment give them, before they are parsed."""


class SettingsError(Exception):
    """Every problem of the settings at once, in words that say what to write."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: Final = tuple(problems)
        lines = [f"  - {problem}" for problem in self.problems]
        super().__init__("\n".join([f"{len(lines)} problem(s) in the settings:", *lines]))


class _Environment(BaseSettings, Settings):
    """The same settings, as the environment's variables name them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=NESTING, frozen=True, extra="forbid")


def load(path: Path | None, *, role: str | None = None) -> Settings:
    """Read the settings; SettingsError lists every problem.

    `path` is --config; without it $SURGELINE_CONFIG, else ./surgeline.yaml if there is one, else only the environment.
    With a `role` only the sections that it reads are checked, so that it needs no other role's secrets.
    """
    source = _source(path)
    problems: list[Problem] = []
    document = _read_yaml(source, problems)
    environment = _read_environment(problems)
    if environment is None:
        raise SettingsError(problems)
    document = _merge(document, environment)
    token = BASE_FOLDER.set((source.parent if source else Path()).resolve())
    try:
        settings = _parse(document, problems)
    finally:
        BASE_FOLDER.reset(token)
    if settings is not None:
        known = {problem.setting for problem in problems}
        problems += [problem for problem in check(settings, role) if problem.setting not in known]
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def masked(settings: Settings) -> Document:
    """All settings for people to read: tokens' digests are hidden, secret files are named and never read."""
    shown: Document = settings.model_dump(mode="json", by_alias=True)
    for client in shown["http"]["clients"]:
        if client["token_sha256"] is not None:
            client["token_sha256"] = MASK
    return shown


def _source(path: Path | None) -> Path | None:
    if path is not None:
        return path
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def _read_yaml(source: Path | None, problems: list[Problem]) -> Document:
    if source is None:
        return {}
    try:
        document = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError:
        problems.append(Problem("--config", f"{source} can't be read", f"Name a settings file, by --config or {CONFIG_VARIABLE}"))
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problems.append(Problem(str(source), f"not YAML{where}", "Compare with surgeline.example.yaml"))
        return {}
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        problems.append(Problem(str(source), "not a list of settings with names", "Compare with surgeline.example.yaml"))
        return {}
    return document


def _read_environment(problems: list[Problem]) -> Document | None:
    """What the variables say; None where one can't be read, because judging the rest without it would mislead."""
    for variable in _nested_variables():
        section = variable.removeprefix(PREFIX).partition(NESTING)[0].lower()
        if section not in Settings.model_fields:
            problems.append(Problem(variable, "no section has this name", f"Known sections: {', '.join(Settings.model_fields)}"))
    try:
        return EnvSettingsSource(_Environment)()
    except EnvironmentError_:
        wrong = [name for name in _nested_variables() if not _is_json_if_it_should_be(os.environ[name])]
        for variable in wrong or [f"{PREFIX}*"]:
            problems.append(Problem(variable, "a list or mapping that is not JSON", 'Write e.g. ["ADT", "BEDS"]'))
        return None


def _nested_variables() -> list[str]:
    """Variables with `__`; a cluster sets others that begin with the name of a service, such as SURGELINE_PORT."""
    return sorted(name for name in os.environ if name.startswith(PREFIX) and NESTING in name)


def _is_json_if_it_should_be(value: str) -> bool:
    if not value.lstrip().startswith(("[", "{")):
        return True
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> Document:
    merged = dict(low)
    for name, value in high.items():
        under = merged.get(name)
        merged[name] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _parse(document: Document, problems: list[Problem]) -> Settings | None:
    """Parse; where values are wrong, report them and go on without them, so that the rules can report too."""
    for _ in range(MAX_PRUNINGS):
        try:
            return Settings.model_validate(document)
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False, include_context=False):
                problem = _problem(item["loc"], item["type"], item["msg"])
                if all(problem.setting != known.setting for known in problems):
                    problems.append(problem)
                document = _without(document, item["loc"])
    return None


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> Problem:
    setting = ".".join(str(part) for part in location if part != "[key]")
    if kind == "extra_forbidden":
        return Problem(setting, "there is no such setting", "Look for its name in surgeline.example.yaml")
    description = _description(location)
    wrong = "missing" if kind == "missing" else message[:1].lower() + message[1:]
    return Problem(setting, wrong, f"It is the {description}" if description else "Compare with surgeline.example.yaml")


def _description(location: tuple[int | str, ...]) -> str:
    """Description of the setting at `location`, for the remedy; empty where it has none."""
    model: type[BaseModel] | None = Settings
    description = ""
    for part in location:
        if model is not None and part in model.model_fields:
            field = model.model_fields[str(part)]
            description = field.description or ""
            model = _model_in(field.annotation)
    return description


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The section that an annotation holds: itself, an item of a tuple, a value of a dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None


def _without(value: Any, location: Sequence[int | str]) -> Any:
    """A copy without what is at `location`; without the whole around it where a part is missing."""
    if not location or not isinstance(value, dict | list | tuple):
        return value
    first, rest = location[0], location[1:]
    if isinstance(value, dict):
        if first not in value:
            return value if rest else {}
        inner = _without(value[first], rest) if rest else None
        kept = {name: item for name, item in value.items() if name != first}
        return kept if not inner else {**kept, first: inner}
    items = list(value)
    if isinstance(first, int) and first < len(items):
        inner = _without(items[first], rest) if rest else None
        items[first : first + 1] = [inner] if inner else []
    return items
