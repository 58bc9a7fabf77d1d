"""Who lies where, and how many beds that leaves."""
