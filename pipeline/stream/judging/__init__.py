"""The agent of the gate."""
