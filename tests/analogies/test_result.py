from __future__ import annotations

import json
import math

import pytest

from fedmomentum.analogies.result import Claim, Measured


@pytest.mark.parametrize(
    ("claim", "error"),
    [
        (Claim("a", 2.0, 2.5, 0.3), 0.25),
        (Claim("a", -2.0, -1.5, 0.3), 0.25),
        (Claim("a", 0.0, 0.5, 0.3, scale=5.0), 0.1),
        (Claim("a", math.inf, math.inf, 0.0), 0.0),
        (Claim("a", 1.0, math.nan, 1.0), math.inf),
        (Claim("a", math.nan, 1.0, 1.0), math.inf),
        (Claim("a", 2.0, 3.0, 0.0, relation="at_least"), 0.0),
        (Claim("a", 2.0, 1.0, 0.0, relation="at_least"), 0.5),
        (Claim("a", 2.0, 1.0, 0.0, relation="at_most"), 0.0),
        (Claim("a", 2.0, 3.0, 0.0, relation="at_most"), 0.5),
        (Claim("a", 0.0, -1.0, 0.0, relation="at_least"), math.inf),
    ],
)
def test_error_of_a_claim(claim: Claim, error: float) -> None:
    assert claim.relative_error == pytest.approx(error)
    assert claim.holds == (error <= claim.tolerance)


def test_a_claim_that_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction of zero"):
        Claim("a", 0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="tolerance"):
        Claim("a", 1.0, 1.0, -0.1)
    with pytest.raises(ValueError, match="tolerance"):
        Claim("a", 1.0, 1.0, math.nan)


def test_measured_is_a_table() -> None:
    good, bad = Claim("good", 1.0, 1.0, 0.0, "steps"), Claim("bad", 1.0, 2.0, 0.1)
    measured = Measured("spring", {"lr": 1.0}, (good, bad))
    assert not measured.holds and Measured("spring", {}, (good,)).holds
    assert measured["bad"] is bad and list(measured) == [good, bad]
    with pytest.raises(KeyError, match="good, bad"):
        measured["ugly"]
    assert [row["holds"] for row in json.loads(json.dumps(measured.rows()))] == [True, False]
    lines = str(measured).splitlines()
    assert "ok: good" in lines[1] and lines[1].endswith("steps") and "FAILS: bad" in lines[2]
