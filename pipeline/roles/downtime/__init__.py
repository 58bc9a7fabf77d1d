"""Boards while everything works, and paper entered after it did not."""
