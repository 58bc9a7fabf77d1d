"""Delivery to a destination that is told of the latest state: agent, delivery, attempts, ledger."""
