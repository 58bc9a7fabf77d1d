"""Delivery to a destination that is told of each change."""
