"""Renders `docs/settings.md` from the settings' model: `python -m pipeline.ops.reference.settings`.

A test compares the committed file with what this renders.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.settings.model import Settings

PAGE: Final = Path("docs/settings.md")
NAME: Final = "NAME"
"""Stands for a destination's name, as in `writers.NAME.base_url`."""

_HEAD: Final = """# Settings

Rendered from `pipeline/settings/sections/` by `python -m pipeline.ops.reference.settings`; change it there.
`surgeline.example.yaml` shows every setting in place, with a comment.

- **Where from.** `--config FILE`, else the file that `SURGELINE_CONFIG` names, else `./surgeline.yaml`, else the
  environment alone. A variable wins over the file: `SURGELINE_KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`
  (`__` nests). A list is written as JSON.
- **Paths** that are relative start at the folder of the settings file.
- **Secrets** never stand in a setting. Those that end in `key_file`, `password_file` or `token_file` name the file that
  holds one; others may not read it (`chmod o-rwx FILE`).
- **All problems at once.** Every command lists each wrong setting with what to write, and ends with code 78.
  `surgeline config show` prints what is in force, secrets masked.
- **Refused unless `demo` is true:** Kafka at another machine without TLS, with fewer than 3 copies or fewer than 2 in
  sync; a listener at another address than this machine without TLS; an EHR at another machine by plain http; the demo's
  own token and keys.
"""

_VARIABLES: Final = """## Variables that are no settings

| variable | meaning |
|---|---|
| `SURGELINE_CONFIG` | the settings file |
| `SURGELINE_HOME` | folder with `topics/` and `avro_schemas/`, where they don't lie beside the package |
| `SURGELINE_CACHE` | where the demo and the tests keep the Kafka that they fetched; `~/.cache/surgeline` without it |
| `SURGELINE_SHOW_FAULTS` | for developers: whole tracebacks. Never where there is patient data |
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the page shows it."""

    name: str
    meaning: str
    takes: str
    default: str


def settings_of(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Setting]:
    """Every setting that a person may write, sections opened up, in the order of the model."""
    for field_name, field in model.model_fields.items():
        name = prefix + (field.alias or field_name)
        section, place = _section(field.annotation)
        if section is not None:
            yield from settings_of(section, name + place)
        else:
            yield Setting(name, field.description or "", _takes(field), _default(field))


def render() -> str:
    """The whole page."""
    parts, section = [_HEAD], None
    for setting in settings_of():
        head = setting.name.partition(".")[0].partition("[")[0] if "." in setting.name else "general"
        if head != section:
            section = head
            parts.append(f"\n## {head}\n\n| setting | meaning | takes | default |\n|---|---|---|---|\n")
        parts.append(f"| `{setting.name}` | {setting.meaning} | {setting.takes} | {setting.default} |\n")
    return "".join((*parts, "\n", _VARIABLES))


def _section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section behind an annotation, and what stands between its name and its settings' names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, "."
    sections = [each for each in get_args(annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
    if not sections:
        return None, ""
    return sections[0], f".{NAME}." if get_origin(annotation) is dict else "[]."


def _takes(field: FieldInfo) -> str:
    """Kind and bounds in words; of two bounds the tighter one."""
    lowest: list[tuple[float, str]] = []
    highest: list[tuple[float, str]] = []
    length = ""
    for part in (*field.metadata, *_inner_metadata(field.annotation)):
        match part:
            case Ge(ge=low):
                lowest.append((float(str(low)), f"from {_number(low)}"))
            case Gt(gt=low):
                lowest.append((float(str(low)), f"above {_number(low)}"))
            case Le(le=high):
                highest.append((float(str(high)), f"to {_number(high)}"))
            case MinLen(min_length=least):
                length = f"at least {least}" + (" characters" if field.annotation is str else "")
            case _:
                continue
    bounds = [max(lowest)[1] if lowest else "", min(highest)[1] if highest else "", length]
    return " ".join((_kind(field.annotation), *filter(None, bounds)))


def _inner_metadata(annotation: Any) -> tuple[Any, ...]:
    """Bounds that stand inside of `X | None`."""
    found: list[Any] = []
    for argument in get_args(annotation):
        for part in getattr(argument, "__metadata__", ()):
            found += part.metadata if isinstance(part, FieldInfo) else [part]
    return tuple(found)


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_kind(get_args(annotation)[0])}"
    if annotation in (bool, int, float, str, Path):
        return {bool: "yes or no", int: "number", float: "number", str: "text", Path: "path"}[annotation]
    kinds = [_kind(argument) for argument in get_args(annotation) if argument is not type(None)]
    return kinds[0] if kinds else "text"


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "**required**"
    if default is None or default in ((), {}):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{_number(default) if isinstance(default, (int, float)) else default}`" if default != "" else "empty"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
