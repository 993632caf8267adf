"""Anything that yields soft targets."""
