"""The gate in several workers, and its recovery."""
