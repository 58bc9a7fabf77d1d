"""The sections of the settings, each with its meaning, bounds and default."""
