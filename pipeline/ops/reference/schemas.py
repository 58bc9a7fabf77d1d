"""Renders `docs/schemas/`, a JSON Schema of each kind of policy file and profile: `python -m pipeline.ops.reference.schemas`.

An editor checks a file of yours against them while you write it; at start the code checks more, and lists all problems.
A test compares the committed files with what this renders.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.domain.accounts.budgets import BudgetsFile
from pipeline.domain.judging.policy import LanesFile, OwnershipFile
from pipeline.domain.writing.mode_policy import ModesFile
from pipeline.formats.fhir.profile import Profile as EhrProfile
from pipeline.formats.files.profile import FileProfile
from pipeline.formats.hl7v2.out_profile import OutProfile
from pipeline.formats.hl7v2.profile import Profile as Hl7Profile

FOLDER: Final = Path("docs/schemas")
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

SHAPES: Final[dict[str, tuple[str, Any]]] = {
    "ownership": ("policies/ownership.yaml", OwnershipFile),
    "lanes": ("policies/lanes.yaml", LanesFile),
    "budgets": ("policies/budgets.yaml", BudgetsFile),
    "modes": ("policies/modes.yaml", ModesFile),
    "hl7-profile": ("profiles/hl7/*.yaml", Hl7Profile),
    "hl7-out-profile": ("profiles/hl7-out/*.yaml", OutProfile),
    "ehr-profile": ("profiles/ehr/*.yaml", EhrProfile),
    "file-profile": ("profiles/files/*.yaml", FileProfile),
}
"""Kinds of files by the schema's name: where they lie, and the type that their content is read into."""


def render(name: str) -> str:
    """The schema of one kind, as JSON."""
    where, shape = SHAPES[name]
    schema = {"$schema": DIALECT, "title": where, **msgspec.json.schema(shape)}
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=2).decode() + "\n"


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name in SHAPES:
        (FOLDER / f"{name}.schema.json").write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
