"""What leans on Faust's inside holds for exactly these versions."""

from importlib.metadata import version
from typing import Final

PINNED: Final = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0", "rocksdict": "0.3.29"}


def assert_versions() -> None:
    """Refuse to run on any other version: a patch that doesn't fit may lose events in silence."""
    wrong = [f"{name} is {version(name)}, needs {want}" for name, want in PINNED.items() if version(name) != want]
    if wrong:
        raise RuntimeError("; ".join(wrong) + ". Install from requirements.lock.")
