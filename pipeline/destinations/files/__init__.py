"""The way out by files."""
