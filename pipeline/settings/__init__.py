"""Settings: the sections, the rules between them, and how they are read."""
