"""What every section of the settings is made of: names, files, bounds, and the published secrets of the demo."""

import hashlib
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

ClientConfig = dict[str, str | int | float | bool]
"""Configuration of a librdkafka client."""

BASE_FOLDER: ContextVar[Path] = ContextVar("base_folder")
"""Folder that relative paths start at while settings are being read."""

DEMO_TOKEN: Final = "surgeline-demo-token"  # noqa: S105 - published, and refused where `demo` is false
DEMO_KEY: Final = hashlib.sha256(b"surgeline demo key, known to everybody").digest()
"""Published secrets: taken where a demo names none, refused everywhere else."""

RAW_KEY_BYTES: Final = 32
RAW_BODY_LIMIT_BYTES: Final = 1_500_000
"""Greatest message that a way in may be set to take: encrypted, it still fits a record of the raw topics."""


def _resolve(path: Path) -> Path:
    return BASE_FOLDER.get(Path()) / path.expanduser()


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no zone of the IANA database") from None
    return name


def _place(text: str) -> str:
    return text if "://" in text else str(_resolve(Path(text)))


File = Annotated[Path, AfterValidator(_resolve)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


Zone = Annotated[str, AfterValidator(_zone), Field(description="time zone of the wall clocks there, IANA, e.g. Europe/Berlin")]


class LaneSeconds(Section):
    """A time for each lane."""

    critical: Annotated[Seconds, Field(description="critical lane")] = 30.0
    urgent: Annotated[Seconds, Field(description="urgent lane")] = 120.0
    routine: Annotated[Seconds, Field(description="routine lane")] = 900.0
    bulk: Annotated[Seconds, Field(description="bulk lane")] = 3_600.0


def read_raw_key(path: Path) -> bytes:
    """The 32 bytes that the file writes as 64 hexadecimal digits; ValueError where it doesn't."""
    key = bytes.fromhex(path.read_text().strip())
    if len(key) != RAW_KEY_BYTES:
        raise ValueError("a key has 64 hexadecimal digits")
    return key
