"""Flags in a file of flagd's format (flagd.dev, schema v0; YAML or JSON), asked by OpenFeature, evaluated by flagd's own core.

Of the file only flags called `rollout.…` are ours; what they must look like is checked when the file is read, so that a
file which is half written or misspelt is refused as a whole and the last good one stays in force.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml
from openfeature import api
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType
from openfeature.provider import AbstractProvider, Metadata

from pipeline.domain.writing.rollout import CONTEXT, PREFIX, SHADOW, BadRule, Rule, Scope, about, asked_in, flag_names, rule_from

MAX_BYTES: Final = 1_000_000
"""Greatest file that is read."""

DOMAIN: Final = "surgeline-rollout"
"""OpenFeature's name for the provider that these flags are asked of."""

_SHADOW: Final[Mapping[str, FlagValueType]] = {"mode": SHADOW.mode.value}

Objects = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class BadFlags(ValueError):
    """A file that can't be put into force; each problem names a flag and no value. `cause` is one code for all."""

    def __init__(self, cause: str, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.cause: Final = cause
        self.problems: Final = tuple(problems)


class _UniqueKeys(yaml.SafeLoader):
    """A name that is there twice is an error: of two flags of one name the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(None, None, "a name is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


class FlagProvider(AbstractProvider):
    """OpenFeature provider over the flags of one file."""

    def __init__(self, core: FlagdCore) -> None:
        super().__init__()
        self._core = core

    def get_metadata(self) -> Metadata:
        """See OpenFeature."""
        return Metadata("surgeline-flag-file")

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """See OpenFeature."""
        return self._core.resolve_boolean_value(flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """See OpenFeature."""
        return self._core.resolve_string_value(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """See OpenFeature."""
        return self._core.resolve_integer_value(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """See OpenFeature."""
        return self._core.resolve_float_value(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self, flag_key: str, default_value: Objects, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[Objects]:
        """See OpenFeature."""
        return self._core.resolve_object_value(flag_key, default_value, evaluation_context)


@dataclass(frozen=True, slots=True)
class FlagFile:
    """A file that was read: its bytes, and their SHA-256 in hexadecimal. `names` are the flags that are ours."""

    data: bytes
    digest: str
    names: frozenset[str]
    provider: FlagProvider

    @property
    def actor(self) -> str:
        """Who flips a flag, for the audit log."""
        return f"flags:{self.digest[:16]}"

    def put_into_force(self) -> None:
        """From now on `rule_in_force` answers from this file, in this process."""
        api.set_provider_and_wait(self.provider, DOMAIN)

    def rule(self, destination: str, scope: Scope) -> Rule:
        """The rule by this file, whether it is in force or not; SHADOW where no flag says anything else."""

        def ask(name: str) -> Any:
            try:
                return self.provider.resolve_object_details(name, _SHADOW, _context(destination, scope)).value
            except Exception:  # noqa: BLE001 - as OpenFeature's client: what can't be evaluated has its default
                return _SHADOW

        return self._rule(destination, scope, ask)

    def rule_in_force(self, destination: str, scope: Scope) -> Rule:
        """The same by OpenFeature's client, of the file that was put into force last."""
        client = api.get_client(DOMAIN)
        context = _context(destination, scope)
        return self._rule(destination, scope, lambda name: client.get_object_details(name, _SHADOW, context).value)

    def _rule(self, destination: str, scope: Scope, ask: Callable[[str], Any]) -> Rule:
        name = next((name for name in flag_names(destination, scope.entity_type) if name in self.names), None)
        return SHADOW if name is None else _rule(ask(name), scope)


def _context(destination: str, scope: Scope) -> EvaluationContext:
    attributes = {"tenant": scope.tenant, "destination": destination, "resource": scope.entity_type.value}
    return EvaluationContext(scope.tenant, attributes)


def _rule(value: Any, scope: Scope) -> Rule:
    try:
        return rule_from(value, scope.entity_type)
    except BadRule:  # a flag for all types may list statuses that this type has not
        return rule_from(value, None)


def parse_flags(data: bytes, destinations: Sequence[str]) -> FlagFile:
    """Read a file's bytes; BadFlags with everything that is wrong. Nothing is in force yet."""
    document = _document(data)
    ours = {name: flag for name, flag in document["flags"].items() if isinstance(name, str) and name.startswith(PREFIX)}
    evaluators = document.get("$evaluators")
    problems = [f"{name}: {wrong}" for name, flag in ours.items() if (wrong := _wrong(name, flag, evaluators, destinations))]
    if problems:
        raise BadFlags("flag", problems)
    core = _core(ours, evaluators)
    return FlagFile(data, hashlib.sha256(data).hexdigest(), frozenset(ours), FlagProvider(core))


def _document(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise BadFlags("size", [f"the file has more than {MAX_BYTES} bytes"])
    try:
        document = yaml.load(data.decode(), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise BadFlags("syntax", [f"neither YAML nor JSON at line {mark.line + 1 if mark else '?'}"]) from None
    if not isinstance(document, dict) or not isinstance(document.get("flags"), dict):
        raise BadFlags("shape", ["there is no list of flags by name: write flags:"])
    return document


def _core(flags: Mapping[str, Any], evaluators: Any) -> FlagdCore:
    core = FlagdCore()
    # It takes what it is given apart.
    named = {name: dict(flag) for name, flag in flags.items()}
    core.set_flags({"flags": named, "$evaluators": evaluators} if evaluators else {"flags": named})
    return core


def _wrong(name: str, flag: Any, evaluators: Any, destinations: Sequence[str]) -> str:
    """What is wrong with a flag, empty if nothing is."""
    whom = about(name, destinations)
    if whom is None:
        return f"names no destination of the settings ({', '.join(sorted(destinations))}) with an entity type or without"
    if not isinstance(flag, dict) or not isinstance(flag.get("variants"), dict):
        return "has no variants"
    try:
        core = _core({name: flag}, evaluators)
    except Exception:  # noqa: BLE001 - flagd's core repeats in its errors what the file holds
        return "is no flag of flagd's: state (ENABLED, DISABLED), variants, defaultVariant, targeting, metadata"
    if flag.get("defaultVariant") not in flag["variants"]:
        return "defaultVariant is none of its variants"
    asked = asked_in(flag.get("targeting")) | asked_in(evaluators)
    if not asked <= CONTEXT:
        return f"targeting may ask for {', '.join(sorted(CONTEXT))}; what an entity is like belongs into the lists of limited"
    for variant, value in flag["variants"].items():
        try:
            rule_from(value, whom[1])
        except BadRule as error:
            return f"variant {variant}: {error}"
    try:
        core.resolve_object_value(name, _SHADOW, EvaluationContext("", dict.fromkeys(CONTEXT, "")))
    except Exception:  # noqa: BLE001 - see above
        return "its targeting can't be evaluated, or chooses a variant that isn't there"
    return ""
