"""Benchmarks: each is one command, compares against peers or a limit in the same run, and reports medians and ratios."""
