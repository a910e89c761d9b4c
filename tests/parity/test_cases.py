"""The cases cover what they promise."""

import numpy as np
import pytest

from sagan_deploy.errors import ConfigError
from sagan_deploy.parity.cases import make_cases
from sagan_deploy.presets import preset
from tests.generators import CONFIGS, TINY


@pytest.mark.parametrize("count", [1, 5, 16])
def test_cases_point_into_the_pool_and_have_the_promised_batches(count):
    pool, cases = make_cases(TINY, seed=0, count=count)
    sizes = {case.name: len(case.rows) for case in cases}
    assert sizes["normal"] == sizes["permuted"] == count
    assert sizes["batch of one"] == 1
    assert sizes["odd batch"] % 2 == 1
    assert {row for case in cases for row in case.rows} == set(range(len(pool)))
    z, labels = pool.batch(next(case for case in cases if case.name == "repeated"))
    assert (z == z[0]).all()
    assert (labels == labels[0]).all()
    z, _ = pool.batch(next(case for case in cases if case.name == "±4σ"))
    assert [z[0].max(), z[1].min()] == [4.0, -4.0]
    assert ((np.abs(z) == 4.0).sum(axis=1) == 1).all()  # the other entries stay as they were drawn


def test_labels_cover_all_classes_or_spread_over_them():
    pool, _ = make_cases(TINY, seed=0, count=5)
    assert set(pool.labels[:5]) == {0, 1, 2}
    pool, _ = make_cases(preset("sagan128").generator, seed=0, count=8)
    assert (pool.labels[:8].min(), pool.labels[:8].max()) == (0, 999)
    assert len(set(pool.labels[:8])) == 8
    assert make_cases(CONFIGS["unconditional"], seed=0, count=2)[0].labels is None


def test_no_latents_at_all_is_refused():
    with pytest.raises(ConfigError, match="count"):
        make_cases(TINY, seed=0, count=0)
