"""The role that compares what we hold with what destinations show."""
