"""MLLP clients that are not ours, each a program of its own: it sends files in their order and prints what it read as answer.

All are called alike, `HOST PORT TLS ANSWERS FILE…`: TLS is a folder with `ca.pem` and perhaps a client's certificate, or `-`;
ANSWERS is how many acknowledgements a message gets (two in enhanced mode; only python-hl7 can wait for the second). For each
file they print a line of JSON: `file` and either `failed`, where the client would not send it or knows of no answer, or
`answers`, each with `code`, `control_id`, `error` (ERR-3) and `reason` (ERR-5) by the client's own parser and `hex`, its text.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import hl7

from pipeline.local.servers.jars import Jars, cache_folder, class_path, compiled, java

PROGRAMS: Final = Path(__file__).with_name("programs")
RUN_TIMEOUT_S: Final = 120
INSTALL_TIMEOUT_S: Final = 180
REQUIRED: Final = os.environ.get("SURGELINE_FOREIGN") == "required"
NO_CLIENT: Final = "a foreign program is not to be had"
PASSWORD: Final = "of-this-test-only"
"""Of the key stores; the Java programs know it."""

HAPI: Final = Jars(
    "hapi-hl7v2-2.6.0",
    "ca.uhn.hapi:hapi-base:2.6.0+ca.uhn.hapi:hapi-structures-v251:2.6.0+org.slf4j:slf4j-simple:2.0.17",
    "4 MB",
    "abf45610463b9bd3a8191985b1d7ae326b1668cd2447ffcc3f2caaaf10b21c9f",
)
CAMEL: Final = Jars(
    "camel-mllp-4.14.1",
    "org.apache.camel:camel-core:4.14.1+org.apache.camel:camel-mllp:4.14.1+org.slf4j:slf4j-simple:2.0.17",
    "12 MB",
    "47a4cfe87d59d9950073d6433424965f6e8bc1c8b327da6db19f5fee09e44ee3",
)


class Missing(Exception):
    """What a client needs is not here, and how to get it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One acknowledgement as the client understood it; `text` is not shown."""

    code: str
    control_id: str
    error: str = ""
    reason: str = ""
    text: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client said of one file."""

    file: str
    answers: tuple[Answer, ...] = ()
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """A program that sends. `command` comes before the arguments."""

    name: str
    command: tuple[str, ...]
    answers: int = 1
    """Most acknowledgements to one message that it can wait for."""

    def send(self, port: int, files: Sequence[Path], tls: Path | None = None, answers: int = 1) -> list[Heard]:
        """Send each on one connection; what it heard of each until its program ended."""
        arguments = ("127.0.0.1" if tls is None else "localhost", str(port), str(tls or "-"), str(answers), *map(str, files))
        done = subprocess.run(
            (*self.command, *arguments), capture_output=True, text=True, timeout=RUN_TIMEOUT_S, cwd=files[0].parent, check=False
        )
        return [_heard(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def _heard(told: dict[str, Any]) -> Heard:
    return Heard(told["file"], tuple(_answer(each) for each in told.get("answers", ())), told.get("failed", ""))


def _answer(told: dict[str, str]) -> Answer:
    """Where a client reads the code alone (Camel), the rest is read by python-hl7."""
    text = bytes.fromhex(told["hex"])
    if "control_id" in told:
        return Answer(told["code"], told["control_id"], told.get("error", ""), told.get("reason", ""), text)
    message = hl7.parse(text.decode("iso-8859-1"))
    has_error = b"\rERR|" in text
    error = message.extract_field("ERR", 1, 3, 1, 1) if has_error else ""
    reason = message.extract_field("ERR", 1, 5, 1, 1) if has_error else ""
    return Answer(told["code"], message.extract_field("MSA", 1, 2), error, reason, text)


# -- how each is made


def python_hl7() -> Client:
    """python-hl7's asyncio client."""
    return Client("python-hl7", (sys.executable, str(PROGRAMS / "python_hl7.py")), answers=2)


def node_hl7_client() -> Client:
    """node-hl7-client, installed from its lock file into the cache. Missing without Node.js and npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("node and npm (Debian: nodejs, npm)")
    lock = (PROGRAMS / "node" / "package-lock.json").read_bytes()
    folder = cache_folder() / f"node-hl7-client-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not (folder / "node_modules").is_dir():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(PROGRAMS / "node", draft)
        install = (npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        subprocess.run(install, cwd=draft, timeout=INSTALL_TIMEOUT_S, check=True, capture_output=True)
        draft.rename(folder)
    shutil.copy(PROGRAMS / "node" / "client.mjs", folder)  # its imports are found beside it
    return Client("node-hl7-client", (node, str(folder / "client.mjs")))


def hapi(stores: Path) -> Client:
    """HAPI HL7v2. It takes its key stores from the machine's, which are those in the folder `stores`."""
    return _java("hapi-hl7v2", HAPI, "HapiClient", _stores_of(stores))


def camel() -> Client:
    """Apache Camel's MLLP component."""
    return _java("camel-mllp", CAMEL, "CamelClient", ())


def _java(name: str, jars: Jars, program: str, options: tuple[str, ...]) -> Client:
    libraries = class_path(jars, cache_folder())
    own = compiled(PROGRAMS / f"{program}.java", libraries, cache_folder())
    return Client(name, java_command(libraries, own, program, options))


def java_command(libraries: str, own: Path, program: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """How a program of ours is started, `own` being its jar."""
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"
    classes = ("-cp", f"{own}{os.pathsep}{libraries}", program)
    return (java(), "-Xmx256m", "-XX:+UseSerialGC", quiet, *options, *classes)


def _stores_of(folder: Path) -> tuple[str, ...]:
    def store(which: str, name: str) -> tuple[str, ...]:
        begin = f"-Djavax.net.ssl.{which}Store"
        return (f"{begin}={folder / name}", f"{begin}Password={PASSWORD}", f"{begin}Type=PKCS12")

    return store("trust", "trust.p12") + (store("key", "client.p12") if (folder / "client.p12").exists() else ())
