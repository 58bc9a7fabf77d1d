"""Renders `docs/operating/logs.md` and `metrics.md` from their catalogues: `python -m pipeline.ops.reference.catalogues`.

A test compares the committed files with what this renders.
"""

from pathlib import Path
from typing import Final

from pipeline.ops.log_catalogue import CATALOGUE as LINES
from pipeline.ops.log_catalogue import FIELD_HELP
from pipeline.ops.metrics import CATALOGUE as METRICS
from pipeline.ops.metrics import LAG_BUCKETS_S, Declared

FOLDER: Final = Path("docs/operating")

_LOGS_HEAD: Final = """# Log lines

Rendered from `pipeline/ops/log_catalogue.py` by `python -m pipeline.ops.reference.catalogues`; change it there.

Each line is one JSON object on standard error: `timestamp` (UTC), `level`, `event`, `role`, `instance` and the fields
below. Nothing else is ever logged: a line or field outside of this catalogue, or a text that is no code, is dropped and
counted in `surgeline_logs_refused_total`. Of a library's line only level, logger and exception type remain (`library`);
its text is shown only where it is a constant known to be harmless. An uncaught exception leaves its type and place.

No line holds a payload, a name, an entity's own id, the text of an exception or a URL. `subject` is a keyed digest:
`surgeline` with the same key gives the same digest for the same entity, nobody else can tell which entity it is.
"""

_METRICS_HEAD: Final = """# Metrics

Rendered from `pipeline/ops/metrics.py` by `python -m pipeline.ops.reference.catalogues`; change it there.

Each role serves them at `/metrics` of its health port (from 9400 on, on loopback unless the settings say otherwise).
Every label has a bounded set of values; anything else is counted as `other`. No label holds an entity, a person or a
host. Times are in seconds.
"""


def logs_document() -> str:
    """The whole of `logs.md`."""
    lines = [_LOGS_HEAD, "## Lines\n", "| event | level | fields | meaning |", "|---|---|---|---|"]
    for line in LINES.values():
        fields = ", ".join(f"`{name}`" for name in FIELD_HELP if name in line.fields)
        lines.append(f"| `{line.name}` | {line.level} | {fields} | {line.doc} |")
    lines += ["\n## Fields\n", "| field | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in FIELD_HELP.items()]
    return "\n".join(lines) + "\n"


def metrics_document() -> str:
    """The whole of `metrics.md`."""
    lines = [_METRICS_HEAD, "## Series\n", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [_metric_row(metric) for metric in METRICS.values()]
    labels = {label.name + label.shown: label for metric in METRICS.values() for label in metric.labels}
    lines += ["\n## Labels\n", "| label | values |", "|---|---|"]
    lines += [f"| `{label.name}` | {label.shown} |" for label in labels.values()]
    buckets = ", ".join(f"{bucket:g}" for bucket in LAG_BUCKETS_S)
    lines += [f"\nBuckets of `surgeline_lag_seconds`: {buckets}."]
    return "\n".join(lines) + "\n"


def _metric_row(metric: Declared) -> str:
    labels = ", ".join(f"`{label.name}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


DOCUMENTS: Final = {"logs.md": logs_document, "metrics.md": metrics_document}


def main(folder: Path = FOLDER) -> None:
    """Write the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, render in DOCUMENTS.items():
        (folder / name).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
