"""The judgement, pure: what the senders heard, the books and the EHRs' histories must say of each other."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.domain.accounts.audit import Fault, Finding
from pipeline.formats.fhir.revision import read_mark
from pipeline.formats.fhir.terms import OURS

Body = dict[str, Any]

NO_FIRST_VERDICT: Final = frozenset({"DUPLICATE", "CONFLICT", "QUARANTINED"})
"""Verdicts that alone don't show that an event took effect: of some position it must be said that it was judged."""

UNEXPECTED: Final = frozenset({"CONFLICT", "QUARANTINED", "NOT_OWNER"})
"""Verdicts that nothing in the load asks for."""

_EHRS_OWN: Final = ("telecom", "description", "reasonCode")
_OWNERS_OWN: Final = ("name", "status")
_OUR_SYSTEMS: Final = "https://surgeline.dev/"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a resource: our revision as it carries it, and what in it is the EHR's, as text to compare."""

    number: int
    revision: int | None
    theirs: str


def version_of(body: Body, role: str) -> Version:
    """A version from its body."""
    mark = read_mark(body)
    return Version(int(body["meta"]["versionId"]), mark.revision if mark else None, theirs(body, role))


def theirs(body: Body, role: str) -> str:
    """What the pipeline must not touch: elements that no profile maps, and list elements that are not addressed as ours."""
    names = (*_EHRS_OWN, *(_OWNERS_OWN if role == "owner" else ()))
    kept = {name: body[name] for name in names if name in body}
    kept["extension"] = [e for e in body.get("extension", []) if not str(e.get("url")).startswith(OURS)]
    kept["identifier"] = [i for i in body.get("identifier", []) if not str(i.get("system")).startswith(_OUR_SYSTEMS)]
    return json.dumps(kept, sort_keys=True)


def lost(yes: Iterable[str], verdicts: Mapping[str, Iterable[str]]) -> list[str]:
    """Event ids that were answered yes and of which no position was judged on its merits."""
    return sorted(event_id for event_id in yes if not set(verdicts.get(event_id, ())) - NO_FIRST_VERDICT)


def history_problems(versions: Sequence[Version], edits: Mapping[int, str], head: int | None) -> list[str]:
    """What is wrong with one resource's history; `edits` are the clinician's versions, `head` the gate's last revision.

    A version of ours carries a greater revision than every one before and leaves alone what is theirs. A version of the
    clinician carries our revision along. The last shows the head, and the clinician's last edit.
    """
    problems: list[str] = []
    ordered = sorted(versions, key=lambda version: version.number)
    missing = set(edits) - {version.number for version in ordered}
    if missing:
        problems.append(f"{len(missing)} of the clinician's versions are not in the history")
    ours, before = 0, None
    for version in ordered:
        if version.number in edits:
            problems += _edit_problems(version, before, edits[version.number])
        else:
            problems += _write_problems(version, before, ours)
            ours = max(ours, version.revision or 0)
        before = version
    if before is not None and head is not None and before.revision != head:
        problems.append(f"it ends at revision {before.revision}, the head is {head}")
    if before is not None and edits and before.theirs != edits[max(edits)]:
        problems.append("the clinician's last edit does not stand")
    return problems


def _edit_problems(version: Version, before: Version | None, edit: str) -> list[str]:
    problems = []
    if version.theirs != edit:
        problems.append(f"version {version.number}: the EHR does not show the clinician's edit")
    if before is not None and version.revision != before.revision:
        problems.append(f"version {version.number}: the clinician's version carries another revision of ours")
    return problems


def _write_problems(version: Version, before: Version | None, ours: int) -> list[str]:
    problems = []
    if version.revision is None:
        problems.append(f"version {version.number}: a write of ours carries no revision")
    elif version.revision == ours:
        problems.append(f"version {version.number}: revision {ours} was written twice")
    elif version.revision < ours:
        problems.append(f"version {version.number}: went back from revision {ours} to {version.revision}")
    if before is not None and version.theirs != before.theirs:
        problems.append(f"version {version.number}: a write of ours changed what is the EHR's")
    return problems


def other_states(expected: Mapping[Any, Any], shown: Mapping[Any, Any]) -> list[Any]:
    """Keys whose newest statement is not what the head says."""
    return [key for key, value in expected.items() if key not in shown or shown[key] != value]


def broken_chains(findings: Iterable[Finding], replaced: Iterable[str]) -> list[Finding]:
    """Findings that nothing explains. A fork is explained where a process of the chain worked beside its replacement.

    A kill explains nothing: what was appended and not published is not in the chain, and its successor goes on from the end.
    """
    named = frozenset(replaced)
    return [f for f in findings if not f.harmless and not (f.fault is Fault.FORKED and f.chain in named)]
