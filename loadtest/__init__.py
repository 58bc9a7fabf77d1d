"""Load on a running pipeline: shapes, senders, a judged report. Nothing of the pipeline imports it."""
