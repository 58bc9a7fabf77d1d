"""Faust made exact and fast: app, transport, store, batch."""
