"""Twelve systems that momentum is like, each a prediction, an experiment that checks it, a probe and a picture.

    from fedmomentum.analogies import ANALOGIES, run, spring

    spring.predict(lr=0.01, curvature=1.0, momentum=0.9)      # the closed form: damping ratio, period, margins, ...
    print(run("spring", momentum=0.9))                        # the experiment: predicted, measured, error, allowed
    spring.probe(loss, params, lr=0.01, momentum=0.9)         # the same numbers of a real model
    spring.figure(Path("pictures"))                           # spring.svg and spring.png

The chapter is ``docs/momentum.md``; ``python -m fedmomentum.analogies.figures FOLDER`` draws all its pictures.
"""

from fedmomentum.analogies.registry import ANALOGIES, Analogy, run
from fedmomentum.analogies.result import Claim, Measured

__all__ = ["ANALOGIES", "Analogy", "Claim", "Measured", "run"]
