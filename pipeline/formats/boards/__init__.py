"""Bed boards for downtime: the page, its style, its lines as CSV, and what comes back from paper."""
