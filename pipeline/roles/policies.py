"""The shipped policy files, and putting a policy into force."""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from pipeline import topology
from pipeline.domain.accounts.budgets import BudgetsFile, budgets_from
from pipeline.domain.identifiers import EventId, Millis
from pipeline.domain.judging.policy import BadPolicy, Policy, encode_policy, policy_from
from pipeline.domain.records import Control, ControlKind
from pipeline.domain.writing.mode_policy import ModesFile, mode_policy_from
from pipeline.formats.avro import Codec
from pipeline.kafka.producer import OutRecord
from pipeline.roles.operator_log import operator_chain, publish_at_once
from pipeline.settings.model import Settings
from pipeline.stream.judging.gate import POLICY_KEY

NO_DETAIL: Final[Mapping[str, str]] = MappingProxyType({})

FILES = ("ownership.yaml", "lanes.yaml")
MODES_FILE: Final = "modes.yaml"
BUDGETS_FILE: Final = "budgets.yaml"


def load_policy(folder: Path | None = None) -> Policy:
    """Policy from a folder with `ownership.yaml` and `lanes.yaml`; the shipped one without. BadPolicy lists all problems."""
    root = folder if folder is not None else files("pipeline") / "policies"
    ownership, lanes = (_read(root / name) for name in FILES)
    return policy_from(ownership, lanes)


def load_modes(file: Path | None = None) -> ModesFile:
    """Policy of modes from a file, the shipped one without. BadPolicy lists all problems."""
    return mode_policy_from(_read(file if file is not None else files("pipeline") / "policies" / MODES_FILE))


def load_budgets(file: Path | None = None) -> BudgetsFile:
    """Policy of error budgets from a file, the shipped one without. BadPolicy lists all problems."""
    return budgets_from(_read(file if file is not None else files("pipeline") / "policies" / BUDGETS_FILE))


def _read(file: Traversable) -> dict[str, Any]:
    name = file.name
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise BadPolicy([f"{name}: can't be read"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise BadPolicy([f"{name}: not YAML at line {mark.line + 1 if mark else '?'}"]) from None
    if not isinstance(document, dict):
        raise BadPolicy([f"{name}: not a list of settings with names"])
    return document


def policy_records(policy: Policy, codec: Codec, actor: str, reason: str, now: Millis) -> list[OutRecord]:
    """One control record for every partition of every landing topic."""
    order = Control(
        kind=ControlKind.POLICY,
        event_id=EventId(f"{now:032x}"),
        actor=actor,
        reason=reason,
        at=now,
        policy_version=policy.version,
        policy=encode_policy(policy),
    )
    value = codec.encode(order)
    return [
        OutRecord(name, POLICY_KEY, value, partition)
        for name in topology.LANDING.values()
        for partition in range(topology.ENTITY_PARTITIONS)
    ]


def apply_policy(
    settings: Settings,
    codec: Codec,
    policy: Policy,
    actor: str,
    reason: str,
    now: Millis,
    *,
    action: str = "policy.applied",
    detail: Mapping[str, str] = NO_DETAIL,
) -> int:
    """Put a policy into force everywhere, with its audit entry; the number of partitions told, once all is acknowledged.

    KafkaUnavailable: some partitions may have been told; repeating it is right.
    """
    orders = policy_records(policy, codec, actor, reason, now)
    entry = operator_chain(settings, codec, actor).append(
        at=now,
        actor=actor,
        action=action,
        subject=policy.version,
        reason=reason,
        detail={"partitions": str(len(orders)), **detail},
    )
    publish_at_once(settings, [entry, *orders])
    return len(orders)
