"""`surgeline bench surge`: a surge while the EHR is slow, on the real thing, judged by what the topics and the EHR show."""

import asyncio
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.text import Text

from pipeline.kafka.client import LOG, KafkaUnavailable
from pipeline.local.bench.surge.parts import PARTS, run_part
from pipeline.local.bench.surge.report import Options, Part, SurgeReport, tell
from pipeline.local.errors import LocalPlatformError
from pipeline.local.provenance import commit, machine

NOT_RUN: Final = 2
INTERRUPTED: Final = 130
LEFT_BY_US: Final = "kafka"
"""Every part begins with the broker, whose data lie here."""


def bench_surge(
    options: Options, parts: Sequence[str], folder: Path, console: Console, json_file: Path | None, check: bool
) -> int:
    """Run the parts, each on a pipeline of its own in `folder`, which is emptied. The exit code: 1 where `check` and a
    promise did not hold, 2 where a part could not be run. What was measured by then is in `json_file` in any case, and so are
    parts that it held before, of the same commit, machine and options."""
    done: list[Part] = []
    try:
        with _quiet():
            for name in parts:
                _empty(folder)
                done.append(asyncio.run(run_part(name, options, folder, console)))
                _keep(report_of(options, done), json_file)
    except (LocalPlatformError, KafkaUnavailable) as error:
        console.print(Text(f"The bench could not be run: {error}", style="bold red"))
        return NOT_RUN
    except KeyboardInterrupt:
        return INTERRUPTED
    report = report_of(options, done)
    tell(report, console)
    return 1 if check and not report.reached else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """The client tells at length of a broker that is killed on purpose."""
    before = LOG.level
    LOG.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        LOG.setLevel(before)


def _empty(folder: Path) -> None:
    """LocalPlatformError where it holds what no bench left there."""
    if folder.exists() and any(folder.iterdir()) and not (folder / LEFT_BY_US).is_dir():
        raise LocalPlatformError(f"{folder} is not empty, and nothing says that a bench left it so; name another by --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def report_of(options: Options, parts: Sequence[Part]) -> SurgeReport:
    """Of the parts that were run."""
    reached = all(part.reached for part in parts)
    return SurgeReport(commit=commit("pipeline"), machine=machine(), options=options, parts=tuple(parts), reached=reached)


def _keep(report: SurgeReport, json_file: Path | None) -> None:
    if json_file is None:
        return
    if json_file.exists():
        report = joined(_report_in(json_file), report)
    json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _report_in(file: Path) -> SurgeReport | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=SurgeReport)
    except msgspec.DecodeError:
        return None  # of another kind, or of an earlier shape: it is replaced


def joined(before: SurgeReport | None, after: SurgeReport) -> SurgeReport:
    """Both, in the order in which parts are run; of what can't be compared only the later."""
    if before is None or (before.commit, before.machine, before.options) != (after.commit, after.machine, after.options):
        return after
    parts = {part.name: part for part in (*before.parts, *after.parts)}
    return report_of(after.options, [parts[name] for name in PARTS if name in parts])


__all__ = ["PARTS", "bench_surge", "joined", "report_of"]
