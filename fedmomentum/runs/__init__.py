"""Run folders: metrics, provenance, status."""
