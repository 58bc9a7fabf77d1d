"""Rows of managed files to canonical events, as each profile says."""
