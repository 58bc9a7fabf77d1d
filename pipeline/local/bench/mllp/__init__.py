"""The MLLP way in beside another engine."""
