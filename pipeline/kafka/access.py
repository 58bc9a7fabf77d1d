"""Who may do what at the broker, made from the map: for a cluster that refuses what it was not told to allow."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pipeline import topology

ROLE: Final = "{role}"
"""Stands for the role's name in a pattern of principals."""

_LOOKS: Final = ("Describe", "DescribeConfigs")
_APPLIES: Final = ("Create", "AlterConfigs")


@dataclass(frozen=True, slots=True)
class Access:
    """Operations, by Kafka's names, that one role needs on some topics or groups, named as at the broker."""

    role: str
    resource: Literal["topic", "group"]
    operations: tuple[str, ...]
    names: tuple[str, ...]


def access_of(prefix: str, destinations: Sequence[str]) -> Iterator[Access]:
    """What each role needs, no more; a writer is a role for each destination.

    Every role looks at all topics when it starts. Where a topic is only measured that is all it needs. Every one reads
    some topic by itself.
    """
    every = _named(topology.every_topic(), prefix, destinations)
    for stage in topology.STAGES:
        for role, of in _roles(stage, destinations):
            yield from _needed(
                role,
                ("topic", _LOOKS, every),
                ("topic", _APPLIES, every if stage.applies else ()),
                ("topic", ("Read",), _named(stage.consumes, prefix, of)),
                ("topic", ("Write",), _named(stage.produces, prefix, of)),
                ("group", ("Read",), _named(stage.groups, prefix, of)),
                ("group", ("Describe",), _named((topology.READER_GROUP, *stage.progress), prefix, of)),
            )


def commands(access: Iterable[Access], principal: str, bootstrap: str) -> Iterator[str]:
    """A line for `kafka-acls.sh` each; `principal` is a pattern with ROLE in it."""
    for each in access:
        who = principal.replace(ROLE, each.role)
        what = [f"--operation {operation}" for operation in each.operations]
        where = [f"--{each.resource} {name}" for name in each.names]
        yield " ".join(["kafka-acls.sh", f"--bootstrap-server {bootstrap}", "--add", f"--allow-principal '{who}'", *what, *where])


def _roles(stage: topology.Stage, destinations: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Names of the roles that a stage is, with the destinations that each has to do with."""
    if any(topology.DESTINATION in group for group in stage.groups):
        return [(f"{stage.name}-{each}", (each,)) for each in destinations]
    return [(stage.name, destinations)]


def _needed(role: str, *rights: tuple[Literal["topic", "group"], tuple[str, ...], tuple[str, ...]]) -> Iterator[Access]:
    return (Access(role, resource, operations, names) for resource, operations, names in rights if names)


def _named(names: Iterable[str], prefix: str, destinations: Sequence[str]) -> tuple[str, ...]:
    """Names at the broker, a template's once for each destination."""
    expanded = [
        name.replace(topology.DESTINATION, each)
        for name in names
        for each in (destinations if topology.DESTINATION in name else ("",))
    ]
    return tuple(topology.topic(name, prefix) for name in expanded)
