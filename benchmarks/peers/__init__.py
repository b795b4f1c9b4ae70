"""Other frameworks on workload W, each file for an environment of its own, which ``make bench-peers`` makes."""
