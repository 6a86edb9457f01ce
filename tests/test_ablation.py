"""The operator trial: what it draws, that it learns, and its command line."""

import csv
import itertools

import numpy as np
import pytest
import torch
from processes import run_tool

from lisa_backbone import ablation
from lisa_backbone.ablation import VARIANTS, Trial, TrialModel, draw, run_variant
from lisa_backbone.data.digits import digit_labels, digit_split


@pytest.mark.parametrize('canvas', Trial().test_sizes)
def test_labels_follow_from_the_picture(canvas):
    trial = Trial(noise=0.0)
    images, own, left = draw(trial, 'val', canvas, 20, np.random.default_rng(0))
    side = canvas // 4
    digits, labels = ablation._digit_images(trial.digit), digit_labels()
    allowed = np.concatenate(digit_split('val'))
    checked = 0
    maps = zip(images.squeeze(1).numpy(), own.view(-1, side, side), left.view(-1, side, side), strict=True)
    for image, classes, lefts in maps:
        found = []
        # Without noise a digit stands in the canvas pixel by pixel; find it by its sample.
        for y, x in itertools.product(range(canvas - 11), repeat=2):
            patch = image[y : y + 12, x : x + 12]
            if patch.sum() > 0.5 * image.sum() / 2:
                match = [s for s in allowed if np.array_equal(digits[s], patch)]
                found += [(x, y, labels[s]) for s in match]
        if len(found) != 2:  # the halves of the ink differ too much to find both
            continue
        checked += 1
        (x0, y0, first), (x1, y1, second) = sorted(found)
        assert x1 - x0 >= 12
        for x, y, label, to_left in ((x0, y0, first, 10), (x1, y1, second, first)):
            row, column = (y + 6) // 4, (x + 6) // 4
            assert classes[row - 1, column - 1] == classes[row, column] == label
            assert lefts[row - 1, column - 1] == lefts[row, column] == to_left
    assert checked >= 10
    assert ((own >= 0) == (left >= 0)).all()
    assert ((own >= 0).sum(1) == 8).all()


@pytest.mark.parametrize('name', VARIANTS)
def test_every_variant_learns_from_a_step(name):
    trial = Trial(width=16, num_heads=2, depth=1)
    torch.manual_seed(0)
    model = TrialModel(VARIANTS[name], trial)
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = draw(trial, 'train', 24, 4, np.random.default_rng(0))
    for _ in range(2):
        ablation.train_step(model, optimizer, batch)
    assert all(p.isfinite().all() for p in model.parameters())
    changed = sum(not torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert changed >= 0.8 * len(before)


def test_a_run_is_reproducible_and_depends_on_its_seed():
    trial = Trial(width=16, num_heads=2, depth=1, steps=3, test_images=10)
    first, again, other = (run_variant(VARIANTS['LiSA (default)'], trial, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert set(first) == {f'{kind}@{size}' for kind in ('own', 'left') for size in (24, 48, 96)}


def ablate(*arguments):
    return run_tool('ablate_attention.py', *arguments)


def test_the_tool_goes_on_where_it_stopped_and_refuses_other_settings(tmp_path):
    out = tmp_path / 'trial.csv'
    arguments = ['run', '--out', out, '--steps', 1, '--seeds', 0, '--variants', 'no mixing']
    assert ablate(*arguments).returncode == 0
    before = out.read_text()
    done = ablate(*arguments, 'no mixing + local conv')
    assert done.returncode == 0, done.stderr
    assert out.read_text().startswith(before)
    with out.open() as file:
        assert [row['variant'] for row in csv.DictReader(file)] == ['no mixing', 'no mixing + local conv']
    assert '| no mixing + local conv | 1 |' in done.stdout
    other = ablate('run', '--out', out, '--steps', 2, '--variants', 'no mixing')
    assert other.returncode == 2
    assert 'other settings' in other.stderr
    unknown = ablate('run', '--out', out, '--steps', 1, '--variants', 'mixing')
    assert unknown.returncode == 2
    assert "variant 'mixing' is unknown" in unknown.stderr
    empty = ablate('table', '--out', tmp_path / 'none.csv')
    assert empty.returncode == 2
    assert 'holds no runs' in empty.stderr
