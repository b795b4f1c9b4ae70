"""Benchmarks: each is one command that compares with peers or a limit in the same run: medians and ratios."""
