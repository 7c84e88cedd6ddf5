"""The bent scores of an ensemble."""

import numpy as np
import pytest

from jaxdefect.inference.ensemble import bend


@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.3, 0.5, 0.999, 1.0])
def test_bending_keeps_the_order_and_every_decision(threshold: float) -> None:
    scores = np.unique([0, 1, threshold, *np.linspace(0, 1, 101)])
    bent = bend(scores, threshold)
    assert (np.diff(bent) > 0).all()
    assert ((bent >= 0.5) == (scores >= threshold)).all()
    assert 0 <= bent[0] <= 0.5 <= bent[-1] <= 1
