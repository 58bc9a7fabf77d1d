"""What has expired between two looks at the beginnings of topics, to be told in the audit log. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 86_400_000

CLASSES: Final = {"raw.": "raw", "quarantine": "quarantine"}
"""Classes of artefacts that hold what others sent us, by the topic's name or how that begins."""


def class_of(topic: str) -> str | None:
    """Retention class of a topic; None where its records are no artefacts."""
    return next((name for start, name in CLASSES.items() if topic.startswith(start)), None)


@dataclass(frozen=True, slots=True)
class Expired:
    """Records of one partition that are gone since the last look: offsets from `first` to before `until`.

    `anew`: the log begins before where it began, so the topic was made again and everything of before is gone; then `until`
    is where it begins now.
    """

    topic: str
    partition: int
    first: int
    until: int
    anew: bool = False


def place(topic: str, partition: int) -> str:
    """Name of a partition in a checkpoint."""
    return f"{topic}/{partition}"


def expired(before: Mapping[str, int], now: Mapping[str, int]) -> Iterator[Expired]:
    """What went between two looks, by `place`; a partition that was not looked at before says nothing."""
    for name, begins in sorted(now.items()):
        began = before.get(name)
        if began is None or began == begins:
            continue
        topic, _, partition = name.rpartition("/")
        yield Expired(topic, int(partition), began, begins, begins < began)
