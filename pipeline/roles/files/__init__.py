"""Managed files: what goes out, what was done with what came in, and its repair."""
