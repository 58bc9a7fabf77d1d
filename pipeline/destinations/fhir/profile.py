"""Loads an EHR's profile at start, or refuses it with all its problems."""

from pathlib import Path
from typing import Final

import yaml

from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.profile_rules import ProfileProblems, parse_profile

PROFILES: Final = Path(__file__).parents[2] / "profiles" / "ehr"


class InvalidProfile(Exception):
    """A profile that start-up refuses; its text lists all problems."""

    def __init__(self, name: str, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join([f"profile {name}:", *(f"  {problem}" for problem in problems)]))
        self.problems = problems


def load_profile(name_or_path: str | Path) -> Profile:
    """The profile at a path, or the one of that name that comes with the pipeline; InvalidProfile lists what is wrong."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{name_or_path}.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise InvalidProfile(path.name, ("can't be read",)) from None
    except yaml.YAMLError:
        raise InvalidProfile(path.name, ("is no YAML",)) from None
    parsed = parse_profile(document)
    if isinstance(parsed, ProfileProblems):
        raise InvalidProfile(path.name, parsed.problems)
    return parsed
