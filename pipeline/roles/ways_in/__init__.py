"""The roles that take changes in."""
