"""The Apache Kafka jars, fetched once into a cache folder and checked against one digest."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.local.errors import LocalPlatformError

KAFKA_VERSION: Final = "4.1.1"
ENDPOINT: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:2.0.17"
JARS_SHA256: Final = "9588e2c0ed093fece421a00ac0df80860995791fd1381f6cc7d520351393c203"
"""SHA-256 over one line `name sha256` for each jar, sorted: the jars that this project was tried with, to the byte."""


def cache_folder() -> Path:
    """$SURGELINE_CACHE, else ~/.cache/surgeline. What it holds is safe to delete; it is fetched again."""
    return Path(os.environ.get("SURGELINE_CACHE") or Path.home() / ".cache" / "surgeline").absolute()


def kafka_class_path(cache: Path) -> str:
    """Class path of the broker; fetches the jars from Maven Central if `cache` lacks them (about 20 s, 120 MB).

    Processes that ask at the same time take turns. LocalPlatformError if they can't be fetched or aren't the ones
    that are expected; a later call tries again.
    """
    cache.mkdir(parents=True, exist_ok=True)
    listing = cache / f"kafka-{KAFKA_VERSION}-{JARS_SHA256[:12]}.classpath"
    with _turn(cache / "kafka.lock"):
        if listing.exists() and all(Path(jar).exists() for jar in listing.read_text().split(os.pathsep)):
            return listing.read_text()
        jars = _fetch(cache / "jgo")
        found = digest(jars)
        if found != JARS_SHA256:
            raise LocalPlatformError(
                f"the Kafka jars in {cache} have digest {found}, not {JARS_SHA256}; delete the folder and retry"
            )
        class_path = os.pathsep.join(str(jar) for jar in jars)
        draft = listing.with_suffix(".draft")
        draft.write_text(class_path)
        draft.replace(listing)
        return class_path


def digest(jars: list[Path]) -> str:
    """See JARS_SHA256."""
    lines = sorted(f"{jar.name} {hashlib.sha256(jar.read_bytes()).hexdigest()}\n" for jar in jars)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _fetch(folder: Path) -> list[Path]:
    try:
        import jgo
    except ImportError as error:
        raise LocalPlatformError("the local broker needs the packages of surgeline[demo]") from error
    try:
        environment = jgo.build(ENDPOINT, cache_dir=folder)
    except Exception as error:  # jgo has no error type of its own: network, disk and resolution all end here
        raise LocalPlatformError(f"Kafka {KAFKA_VERSION} could not be fetched from Maven Central: {error}") from error
    # jgo puts jars that declare a module apart from the others; the broker needs both.
    return sorted(jar for part in ("jars", "modules") for jar in (Path(environment.path) / part).glob("*.jar"))


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
