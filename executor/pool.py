"""Lends seats to invocations."""
