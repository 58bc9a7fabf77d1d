"""The roles that write, one per destination."""
