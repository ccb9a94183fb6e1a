"""Runs invocations on this node."""
