"""Where the files that ship with surgeline lie: topic declarations and Avro schemas."""

import os
import sys
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "SURGELINE_HOME"
_BESIDE_PACKAGE: Final = Path(__file__).resolve().parent.parent
_INSTALLED: Final = Path(sys.prefix) / "share" / "surgeline"


def home() -> Path:
    """Folder that holds `topics/` and `avro_schemas/`.

    `SURGELINE_HOME` if set, else the checkout that the package is in, else `<prefix>/share/surgeline` of an installation.
    """
    if chosen := os.environ.get(HOME_VARIABLE):
        return Path(chosen)
    return _BESIDE_PACKAGE if (_BESIDE_PACKAGE / "topics").is_dir() else _INSTALLED


def topics_dir() -> Path:
    """One YAML file per Kafka topic."""
    return home() / "topics"


def schemas_dir() -> Path:
    """Avro schemas by name and version."""
    return home() / "avro_schemas"
