"""The way in by managed files."""
