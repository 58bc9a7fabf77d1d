"""The role that judges."""
