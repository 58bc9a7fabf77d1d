"""Renders `docs/policies.md`, the policy in words and the glossary of every status: `python -m pipeline.ops.reference.policies`.

A test compares the committed file with what this renders.
"""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

import yaml

from pipeline.domain import bed, event, records
from pipeline.domain.accounts import budgets, evidence
from pipeline.domain.event import Described
from pipeline.domain.files import life as file_life
from pipeline.domain.files import outgoing as file_out
from pipeline.domain.judging.policy import LaneRule, Policy, policy_from
from pipeline.domain.reconcile import record as reconcile_record
from pipeline.domain.subscriptions import state as subscription_state
from pipeline.domain.ward import lines as census_lines
from pipeline.domain.writing import modes
from pipeline.formats import json_shapes
from pipeline.formats.fhir import inbound_verdict, notification
from pipeline.formats.hl7v2 import leniency
from pipeline.formats.hl7v2 import verdict as hl7_verdict
from pipeline.formats.markdown import table

PAGE: Final = Path("docs/policies.md")

_HEAD: Final = """# Who may say what, and what goes first

Rendered from `pipeline/policies/ownership.yaml`, `pipeline/policies/lanes.yaml` and the enums of the code by
`python -m pipeline.ops.reference.policies`; change it there.

`surgeline policy show` checks the files and prints their version. `surgeline policy apply --reason TEXT` puts them into
force from the next record on, in every partition of every landing topic; `--folder DIR` names a folder of your own with
both files. What was judged before stays judged by the policy that was in force then.

An editor that knows JSON Schema can check these files, and profiles, while you write them: the schemas are in
[schemas](schemas/).
"""

_SYSTEMS: Final = """## Systems and their roles

A source system's name is compared with these patterns, from the top; the first that matches gives its role. Upper and
lower case differ. A system that no pattern names may say nothing: all its events end as `NOT_OWNER`, `UNKNOWN_SOURCE`.
"""

_FIELDS: Final = """## Who may say each field

The role further left ranks higher. Of two statements the newer wins, by the source's recording time or by our receipt,
whichever is earlier. Only for two of the same millisecond does the rank decide. A field that an event may not state, or
states too late, is dropped; the rest of the event is judged as usual.
"""

_LANES: Final = """## Lanes

An accepted change takes the lane of the first rule that holds; without one it is `routine`. All conditions of a rule must
hold. A later change of the same entity never lowers its lane while an earlier one is unconfirmed.
"""

_UNITS: Final = """## Kinds of units

Unit codes by kind. `*` counts at every facility; a facility's own entry adds to it. *Boarding* are the units that boarders
wait for: a bed that becomes ready there releases one.
"""

_GLOSSARY: Final = """## Glossary: every status and reason

The symbols are those of the Avro schemas, of the JSON API, of metrics' labels and of what the commands print.
"""

GLOSSARY: Final[Mapping[str, tuple[type[Described], ...]]] = {
    "Judging": (records.DecisionKind, records.Lane, records.Reason, records.ControlKind),
    "Delivering": (records.OutcomeKind, records.Would, modes.Mode, modes.Cause),
    "Events": (event.EntityType, event.EventType, event.SequenceBasis),
    "Beds": (
        event.Occupancy,
        event.Environment,
        event.AllocationStatus,
        event.ServiceStatus,
        bed.BedStatusCode,
        bed.Untellable,
    ),
    "Patients and encounters": (event.EncounterStatus, event.PatientClass, event.Sex),
    "Transfers, procedures, diversion": (
        event.TransferKind,
        event.TransferStage,
        event.ProcedureStatus,
        event.DiversionStatus,
    ),
    "Boards for downtime": (census_lines.BedWord, census_lines.Disagreement),
    "Managed files": (file_life.FileStatus, file_life.FileReason),
    "Reconciliation": (
        reconcile_record.Drift,
        reconcile_record.Rule,
        reconcile_record.Remedy,
        reconcile_record.Stage,
        reconcile_record.Scope,
        reconcile_record.Cause,
    ),
    "Files that go out": (file_out.OutKind, file_out.OutStatus, file_out.OutReason),
    "Error budgets and evidence": (budgets.IncidentKind, evidence.Stage),
    "Refused at a way in": (
        json_shapes.Rule,
        hl7_verdict.Reason,
        leniency.Leniency,
        inbound_verdict.RejectedBecause,
        inbound_verdict.IgnoredBecause,
        notification.MalformedBecause,
    ),
    "FHIR subscriptions": (
        subscription_state.SubscriptionStatus,
        subscription_state.Why,
        notification.Kind,
        notification.Version,
    ),
}
"""Every enum whose symbols explain themselves, by what a reader looks for."""

NOT_GIVEN: Final[tuple[Described, ...]] = (records.Reason.DEADLINE_EXCEEDED, reconcile_record.Cause.RETRY)
"""Symbols of released schemas that this version never gives: they stay, with the words that were released with them."""


def shipped_policy() -> Policy:
    """The policy that comes with the package; BadPolicy lists what is wrong with it."""
    folder = files("pipeline") / "policies"
    ownership, lanes = (yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in ("ownership.yaml", "lanes.yaml"))
    return policy_from(ownership, lanes)


def render(policy: Policy) -> str:
    """The whole page."""
    parts = (_HEAD, f"Version of what is below: `{policy.version}`.\n", _systems(policy), _fields(policy))
    return "\n".join((*parts, _lanes(policy), _units(policy), _ignored(policy), _glossary()))


def _systems(policy: Policy) -> str:
    rows = [(f"`{system.system}`", system.role) for system in policy.systems]
    skew = f"\nA record dated more than {policy.future_skew_s} s after it lands is quarantined: it would win for good.\n"
    return _SYSTEMS + "\n" + table(("source system", "role"), rows) + skew


def _fields(policy: Policy) -> str:
    parts = [_FIELDS]
    for entity_type, rules in policy.fields.items():
        rows = [(f"`{field}`", ", ".join(rule.roles), rule.condition) for field, rule in rules.items()]
        parts.append(f"### {entity_type.value}: {entity_type.doc}\n\n" + table(("field", "roles", "condition"), rows))
    return "\n".join(parts)


def _lanes(policy: Policy) -> str:
    meanings = [(f"`{lane.value}`", lane.doc) for lane in records.LANES]
    rules = [
        (str(number), f"`{rule.lane.value}`", rule.why, "; ".join(conditions_of(rule)) or "always")
        for number, rule in enumerate(policy.lanes, 1)
    ]
    return "\n".join((_LANES, table(("lane", "meaning"), meanings), table(("", "lane", "because", "when"), rules)))


def conditions_of(rule: LaneRule) -> list[str]:
    """A rule's conditions in words; all must hold."""
    said: list[str] = []
    if rule.entity is not None:
        said.append(f"{rule.entity.value}")
    if rule.event_types:
        said.append(f"event {_any(rule.event_types)}")
    if rule.changed:
        said.append(f"{_any(rule.changed)} changed")
    if rule.only_changed:
        said.append(f"nothing but {_any(rule.only_changed)} changed")
    said += [f"`{path}` becomes {_any(values)}" for path, values in rule.becomes.items()]
    said += [f"`{path}` was {_any(values)}" for path, values in rule.leaves.items()]
    if rule.units:
        said.append(f"the unit before or after is of kind {_any(rule.units)}")
    if rule.ready is not None:
        said.append("the bed became ready" if rule.ready else "the bed did not become ready")
    if rule.promised_or_boarding:
        said.append("the bed is promised or stands in a boarding unit")
    if rule.later is not None:
        said.append(f"`{rule.later}` moved to a later time")
    return said


def _units(policy: Policy) -> str:
    rows = [
        (f"`{site}`", kind, ", ".join(f"`{unit}`" for unit in units))
        for site, kinds in policy.units.items()
        for kind, units in kinds.items()
    ]
    return _UNITS + "\n" + table(("facility", "kind", "units"), rows)


def _ignored(policy: Policy) -> str:
    rows = [
        (
            rule.entity.value if rule.entity else "any",
            _any(rule.event_types) or "any",
            f"`{rule.source_system}`" if rule.source_system else "any",
            rule.reason,
        )
        for rule in policy.ignore
    ]
    head = "## Ignored by rule\n\nSuch events are acknowledged, kept and not applied.\n"
    return head + "\n" + (table(("entity", "event", "source system", "because"), rows) if rows else "No rule at present.\n")


def _glossary() -> str:
    parts = [_GLOSSARY]
    for heading, enums in GLOSSARY.items():
        parts.append(f"### {heading}\n")
        for enum in enums:
            rows = [(f"`{symbol.value}`", _meaning(symbol)) for symbol in enum]
            parts.append(f"**{_words(enum)}.** {_first_sentence(enum.__doc__ or '')}\n\n" + table(("symbol", "meaning"), rows))
    return "\n".join(parts)


def _meaning(symbol: Described) -> str:
    """By identity: symbols of two enums may have one name, and are then equal."""
    return f"{symbol.doc}; not given by this version" if any(symbol is each for each in NOT_GIVEN) else symbol.doc


def _words(enum: type[Described]) -> str:
    """Name of an enum as a reader looks for it; two are called Reason."""
    if enum is hl7_verdict.Reason:
        return "Reason of a rejected HL7 v2 message"
    return "Rule of a refused JSON event" if enum is json_shapes.Rule else enum.__name__


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _any(values: Iterable[str]) -> str:
    return " or ".join(f"`{value}`" for value in values)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(shipped_policy()), encoding="utf-8")


if __name__ == "__main__":
    main()
