"""Loads the profile of a receiver of HL7 v2 at start, or refuses it with all its problems."""

from pathlib import Path
from typing import Final

import msgspec

from pipeline.destinations.fhir.profile import InvalidProfile
from pipeline.formats.hl7v2.out_profile import OutProfile, out_profile_of

OUT_PROFILES: Final = Path(__file__).parents[2] / "profiles" / "hl7-out"


def load_out_profile(name_or_path: str | Path) -> OutProfile:
    """The profile at a path, or the one of that name that comes with the pipeline; InvalidProfile lists what is wrong."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = OUT_PROFILES / f"{name_or_path}.yaml"
    try:
        return out_profile_of(path.read_bytes())
    except OSError:
        raise InvalidProfile(path.name, ("can't be read",)) from None
    except msgspec.ValidationError as error:
        raise InvalidProfile(path.name, tuple(str(error).split("; "))) from None
    except msgspec.DecodeError:
        raise InvalidProfile(path.name, ("is no YAML",)) from None
