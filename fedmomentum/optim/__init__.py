"""Momentum and adaptive rules as pairs of pure functions, for one model or many at once."""
