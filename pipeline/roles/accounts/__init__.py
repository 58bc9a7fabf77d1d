"""Roles and commands that prove, count and tell."""
