"""`surgeline bench surge`: a surge while the EHR is slow, on the real thing, judged by what the topics and the EHR show."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from pipeline.kafka.client import LOG
from pipeline.local.bench.frame import emptied, ended, read_report, write_report
from pipeline.local.bench.surge.parts import PARTS, run_part
from pipeline.local.bench.surge.report import Options, Part, SurgeReport, tell
from pipeline.local.provenance import commit, machine


def bench_surge(
    options: Options, parts: Sequence[str], folder: Path, console: Console, json_file: Path | None, check: bool
) -> int:
    """Run the parts, each on a pipeline of its own in `folder`, which is emptied. The exit code: 1 where `check` and a
    promise did not hold, 2 where a part could not be run. What was measured by then is in `json_file` in any case, and so are
    parts that it held before, of the same commit, machine and options."""
    done: list[Part] = []

    def run() -> SurgeReport:
        with _quiet():
            for name in parts:
                emptied(folder)
                done.append(asyncio.run(run_part(name, options, folder, console)))
                _keep(report_of(options, done), json_file)
        return report_of(options, done)

    report = ended(run, console)
    if isinstance(report, int):
        return report
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


def report_of(options: Options, parts: Sequence[Part]) -> SurgeReport:
    """Of the parts that were run."""
    reached = all(part.reached for part in parts)
    return SurgeReport(commit=commit("pipeline"), machine=machine(), options=options, parts=tuple(parts), reached=reached)


def _keep(report: SurgeReport, json_file: Path | None) -> None:
    write_report(json_file, joined(read_report(json_file, SurgeReport), report))


def joined(before: SurgeReport | None, after: SurgeReport) -> SurgeReport:
    """Both, in the order in which parts are run; of what can't be compared only the later."""
    if before is None or (before.commit, before.machine, before.options) != (after.commit, after.machine, after.options):
        return after
    parts = {part.name: part for part in (*before.parts, *after.parts)}
    return report_of(after.options, [parts[name] for name in PARTS if name in parts])


__all__ = ["PARTS", "bench_surge", "joined", "report_of"]
