"""Scenarios: the YAML schema, its loader and its sweeps."""
