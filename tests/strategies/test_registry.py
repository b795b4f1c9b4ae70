from __future__ import annotations

import pytest

import fedmomentum.strategies as ours
from fedmomentum.errors import UserError


def test_every_strategy_has_its_name_in_lower_case():
    names = {name: cls.__name__ for name, cls in ours.STRATEGIES.items()}
    assert all(name == cls.lower() for name, cls in names.items())
    assert set(names.values()) <= set(ours.__all__)
    assert {"FedAvg", "FedAvgM", "FedAdam", "FedOpt", "Scaffold", "Mime", "FedDyn"} <= set(names.values())
    strategy = ours.make_strategy("FedAvgM", server_momentum=0.9, seed=3)
    assert type(strategy) is ours.FedAvgM
    assert (strategy.server_momentum, strategy.seed) == (0.9, 3)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fedavgn", {}, "there is no strategy 'fedavgn'; did you mean 'fedavg"),
        ("zzz", {}, "there are: fedavg, fedavgm"),
        ("fedavgm", {"server_momentun": 0.9}, "has no option 'server_momentun'; did you mean 'server_momentum'?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_near_one(name, options, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        ours.make_strategy(name, **options)
