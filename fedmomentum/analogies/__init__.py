"""Analogies."""
