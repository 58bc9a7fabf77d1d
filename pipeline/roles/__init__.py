"""Composition: each role of `surgeline run` is put together here from settings, and from nothing else."""
