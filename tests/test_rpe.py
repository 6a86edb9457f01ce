"""The offsets that RPEs of all layers share."""

import math
from itertools import product

import pytest
import torch
from oracle import period

from lisa_backbone.attention import rpe


@pytest.fixture(autouse=True)
def none_kept(monkeypatch):
    """Tests start without offsets, and leave those of others alone."""
    monkeypatch.setattr(rpe, '_OFFSETS', type(rpe._OFFSETS)())


def by_hand(grid, wrap):
    """Offsets and lengths as the equation has them, one at a time."""
    axes = []
    for n in grid:
        p = period(n)
        steps = [i if i <= (p - 1) // 2 else i - p for i in range(p)] if wrap else [*range(n), *range(1 - n, 0)]
        axes.append(steps)
    places, lengths = [], []
    for offset in product(*axes):
        offset = (0,) * (3 - len(offset)) + offset
        places.append([math.copysign(math.log1p(abs(x)), x) for x in offset])
        lengths.append(math.log1p(math.hypot(*offset[1:])))
    return torch.tensor(places), torch.tensor(lengths)


@pytest.mark.parametrize('grid', [(7,), (3, 5), (1, 4), (2, 3, 5), (2, 19)])
@pytest.mark.parametrize('wrap', [False, True])
def test_shared_offsets_are_those_of_the_equation(grid, wrap):
    like = torch.zeros(1)
    for _ in range(2):
        places, lengths = rpe._log_offsets(grid, wrap, like)
        expected = by_hand(grid, wrap)
        torch.testing.assert_close(places, expected[0])
        torch.testing.assert_close(lengths, expected[1])
    assert rpe._log_offsets(grid, wrap, like)[0] is places


def test_offsets_are_kept_apart_by_grid_border_and_precision():
    kinds = [((3, 5), False, torch.float32), ((5, 3), False, torch.float32)]
    kinds += [((3, 5), True, torch.float32), ((3, 5), False, torch.float64)]
    for grid, wrap, dtype in kinds * 2:
        places, _ = rpe._log_offsets(grid, wrap, torch.zeros(1, dtype=dtype))
        assert places.dtype == dtype
        torch.testing.assert_close(places.float(), by_hand(grid, wrap)[0])
    assert len(rpe._OFFSETS) == len(kinds)


def test_offsets_made_in_inference_mode_do_not_keep_training_from_gradients():
    torch.manual_seed(0)
    made = rpe.build_rpe('continuous', 2)
    with torch.inference_mode():
        made((3, 4), False)
    assert not rpe._OFFSETS
    made((3, 4), False).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_offsets_of_few_grids_are_kept():
    for n in range(1, rpe._OFFSETS_KEPT + 10):
        rpe._log_offsets((n,), False, torch.zeros(1))
    assert len(rpe._OFFSETS) == rpe._OFFSETS_KEPT
    assert (rpe._OFFSETS_KEPT + 9,) in {key[0] for key in rpe._OFFSETS}


def test_a_tracer_gets_no_real_offsets():
    from torch._subclasses import FakeTensorMode

    made = rpe.build_rpe('continuous', 2)
    made((3, 4), False)
    mode = FakeTensorMode()
    with mode:
        fake = rpe.build_rpe('continuous', 2)
        assert fake((3, 4), False).shape == (2, 5, 7)
    assert made((3, 4), False).isfinite().all()
