import math

import pytest

from flashdistill.core.scatter import pooled_deviation


def test_groups_share_their_scatter():
    # Squares around the means: 2 of [1, 3], 6 of [2, 2, 5]; one and two degrees of freedom.
    deviation, degrees = pooled_deviation([[1.0, 3.0], [2.0, 2.0, 5.0], [7.0]]) or (0.0, 0)
    assert deviation == pytest.approx(math.sqrt(8 / 3))
    assert degrees == 3


def test_single_values_tell_nothing():
    assert pooled_deviation([[1.0], [2.0], []]) is None
