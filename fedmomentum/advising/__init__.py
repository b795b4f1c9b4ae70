"""What the analogies recommend for a scenario or a run, from curvature, noise and heterogeneity that are measured.

    >>> findings, setting = look(load("quickstart").arms[0].scenario)
    >>> for line in advise(setting, findings):
    ...     print(line.text)

``docs/probes.md`` has the formulas; the command is ``fedmomentum advise``.
"""

from fedmomentum.advising.advice import Findings, Line, Setting, Side, advise, tuned

__all__ = ["Findings", "Line", "Setting", "Side", "advise", "tuned"]
