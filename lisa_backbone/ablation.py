"""The operator trial: small models that differ by the attention operator alone, on a task that needs relations.

A canvas shows two handwritten digits among noise. Every token on a digit names that digit, and the digit to its left or
that there is none. The first is a matter of local features. The second asks a token to find another digit at any
distance on one side and to fetch its class. Models are trained at one canvas size and tested at half and double of it,
with digits of the same size, on digits that no training canvas showed.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .attention import LiSAttention, NoMixing, PatternCodeAttention, SelfAttention
from .attention.correlation import correlate, periods
from .backbone import Block, ChannelNorm
from .complexity import count_parameters
from .data.digits import digit_labels, digit_split
from .errors import UserError
from .rows import append_rows, read_rows


class MaxScaledLiSAttention(LiSAttention):
    """LiSA with each head's RPEs scaled to a largest value of one, in place of each RPE's sum."""

    def _rpes(self, grid: tuple[int, ...]) -> Tensor:
        logits = self.rpe(grid, self.wrap).unflatten(0, (self.num_heads, -1))
        return (logits - logits.flatten(1).amax(dim=1).view(-1, *[1] * (logits.dim() - 1))).exp()


class SignedLiSAttention(LiSAttention):
    """LiSA with signed RPEs and a LayerNorm of each token in place of the division."""

    def _attend(self, phi: Tensor, psi: Tensor, value: Tensor, grid: tuple[int, ...]) -> Tensor:
        r = self.rpe(grid, self.wrap).unflatten(0, (self.num_heads, -1))
        signal = value.unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)
        weighted = (psi.unsqueeze(3) * signal.unsqueeze(2)).unflatten(-1, grid)
        y = (phi.unsqueeze(3) * correlate(weighted, r.unsqueeze(2), grid, self.wrap).flatten(-len(grid))).sum(dim=2)
        y = F.layer_norm(y.transpose(2, 3), y.shape[2:3]).transpose(2, 3)
        return y.flatten(1, 2).transpose(1, 2)


class LinearAttention(LiSAttention):
    """LiSA without RPEs: every r is constant, and what is left is linear attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.rpe = None

    def _rpes(self, grid: tuple[int, ...]) -> Tensor:
        return torch.full((self.num_heads, self.num_patterns, *periods(grid, self.wrap)), 1 / math.prod(grid))


@dataclass(frozen=True)
class Variant:
    """One row of the trial.

    Attributes:
        operator: Class of the operator.
        options: Its options.
        layer_scale: Initial layer scale of the blocks; ``None`` for none.
    """

    operator: type[nn.Module]
    options: dict = field(default_factory=dict)
    layer_scale: float | None = 0.1


VARIANTS: dict[str, Variant] = {
    'no mixing': Variant(NoMixing),
    'no mixing + local conv': Variant(NoMixing, dict(local_conv=True)),
    'softmax + relative bias': Variant(SelfAttention),
    'softmax + relative bias + local conv': Variant(SelfAttention, dict(local_conv=True)),
    'LiSA (default)': Variant(LiSAttention),
    'LiSA without local conv': Variant(LiSAttention, dict(local_conv=False)),
    'LiSA padded': Variant(LiSAttention, dict(form='padded')),
    'LiSA, RPEs all ones (linear attention)': Variant(LinearAttention),
    'LiSA, RPEs a table of radius 7': Variant(LiSAttention, dict(rpe='table')),
    'LiSA, RPEs a truncated spectrum': Variant(LiSAttention, dict(rpe='spectrum')),
    'LiSA, RPEs without decay term': Variant(LiSAttention, dict(rpe=dict(type='continuous', slopes=None))),
    'LiSA, RPEs scaled to their largest value': Variant(MaxScaledLiSAttention),
    'LiSA, RPEs signed, no division': Variant(SignedLiSAttention),
    'LiSA, M = 2': Variant(LiSAttention, dict(num_patterns=2)),
    'LiSA, M = 8': Variant(LiSAttention, dict(num_patterns=8)),
    'LiSA, phi = psi = elu + 1': Variant(LiSAttention, dict(feature_map='elu')),
    'LiSA, phi softmax over m, psi exp': Variant(LiSAttention, dict(feature_map='softmax')),
    'LiSA, no layer scale': Variant(LiSAttention, layer_scale=None),
    'softmax + relative bias + local conv, no layer scale': Variant(SelfAttention, dict(local_conv=True), None),
    'pattern codes + local conv': Variant(PatternCodeAttention),
}
YARDSTICK = 'softmax + relative bias + local conv'


@dataclass(frozen=True)
class Trial:
    """What all variants of a trial share.

    Attributes:
        canvas: Side of the training canvas in pixels; tokens are 4 x 4 pixels.
        digit: Side of a digit in pixels.
        noise: Standard deviation of the noise, against strokes of height 1.
        width: Channels.
        depth: Blocks.
        num_heads: Heads.
        mlp_ratio: Hidden width of the feed-forward networks over ``width``.
        steps: Training steps.
        batch: Canvases in a step.
        lr: Peak learning rate of AdamW; warm-up over a tenth of the steps, then a cosine.
        test_images: Canvases of a test.
    """

    canvas: int = 48
    digit: int = 12
    noise: float = 0.1
    width: int = 48
    depth: int = 2
    num_heads: int = 4
    mlp_ratio: float = 2.0
    steps: int = 500
    batch: int = 16
    lr: float = 3e-3
    test_images: int = 200

    @property
    def test_sizes(self) -> tuple[int, int, int]:
        """Half, equal and double canvas."""
        return self.canvas // 2, self.canvas, self.canvas * 2


class TrialModel(nn.Module):
    """A convolutional stem of stride 4, blocks with the operator under trial, a linear classifier of every token."""

    def __init__(self, variant: Variant, trial: Trial) -> None:
        super().__init__()
        width, layers = trial.width, []
        for width_in, width_out, stride in ((1, width // 2, 2), (width // 2, width // 2, 1), (width // 2, width, 2)):
            layers += [nn.Conv2d(width_in, width_out, 3, stride, 1), ChannelNorm(width_out), nn.GELU()]
        self.stem = nn.Sequential(*layers, nn.Conv2d(width, width, 3, 1, 1), ChannelNorm(width))
        self.blocks = nn.ModuleList()
        for _ in range(trial.depth):
            attention = variant.operator(width, trial.num_heads, **variant.options)
            self.blocks.append(Block(width, attention, trial.mlp_ratio, layer_scale_init_value=variant.layer_scale))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 21)

    def forward(self, images: Tensor) -> Tensor:
        """Map canvases (N, 1, S, S) to logits (N, tokens, 21): ten of the digit, eleven of the digit to its left."""
        x = self.stem(images)
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, grid)
        return self.head(self.norm(x))


@lru_cache
def _digit_images(size: int) -> np.ndarray:
    import cv2
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.float32) / 16
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1) for image in images])


def draw(trial: Trial, split: str, canvas: int, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw canvases with two digits of different classes whose columns do not overlap.

    Args:
        trial: Sizes and noise.
        split: ``'train'`` or ``'val'``; the two share no digit sample.
        canvas: Side in pixels, at least twice ``trial.digit``.
        count: How many.
        rng: Source of randomness.

    Returns:
        Images (count, 1, canvas, canvas); for each token the class of the digit on it; and that of the digit to the
        left, 10 where there is none. The latter two are (count, tokens), labelled at the 2 x 2 tokens in the middle of
        each digit and -1 elsewhere.
    """
    digits, samples, labels = _digit_images(trial.digit), digit_split(split), digit_labels()
    size, tokens = trial.digit, canvas // 4
    images = rng.normal(0, trial.noise, (count, canvas, canvas)).astype(np.float32)
    own = np.full((count, tokens, tokens), -1)
    left = own.copy()
    for n in range(count):
        first, second = np.sort(rng.choice(canvas - 2 * size + 1, 2))
        pair = [int(rng.choice(samples[c])) for c in rng.choice(10, 2, replace=False)]
        for k, (sample, x) in enumerate(zip(pair, (first, second + size), strict=True)):
            y = int(rng.integers(0, canvas - size + 1))
            images[n, y : y + size, x : x + size] += digits[sample]
            row, column = (y + size // 2) // 4, (x + size // 2) // 4
            middle = (n, slice(row - 1, row + 1), slice(column - 1, column + 1))
            own[middle] = labels[sample]
            left[middle] = labels[pair[0]] if k else 10
    return torch.from_numpy(images).unsqueeze(1), *(torch.from_numpy(z).flatten(1) for z in (own, left))


def run_variant(
    variant: Variant, trial: Trial, seed: int, progress: Callable[[], None] | None = None
) -> dict[str, float]:
    """Train a model with one operator and test it at half, equal and double canvas.

    Args:
        variant: The operator.
        trial: What all variants share.
        seed: Seed of the weights and of the training canvases; the test canvases are the same for all seeds.
        progress: Called after each step.

    Returns:
        For each canvas side S of ``trial.test_sizes``, ``own@S`` and ``left@S``: the share of tokens that name their
        own digit, and, of the tokens on the right-hand digit, that name the one to their left.
    """
    torch.manual_seed(seed)
    model = TrialModel(variant, trial)
    optimizer = torch.optim.AdamW(model.parameters(), lr=trial.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, trial.lr, trial.steps, pct_start=0.1)
    rng = np.random.default_rng(seed)
    for _ in range(trial.steps):
        train_step(model, optimizer, draw(trial, 'train', trial.canvas, trial.batch, rng))
        schedule.step()
        if progress:
            progress()
    model.eval()
    accuracy = {}
    for canvas in trial.test_sizes:
        images, own, left = draw(trial, 'val', canvas, trial.test_images, np.random.default_rng(canvas))
        with torch.no_grad():
            logits = torch.cat([model(part) for part in images.split(50)])
        on_right = (left >= 0) & (left < 10)
        accuracy[f'own@{canvas}'] = (logits[..., :10].argmax(-1) == own)[own >= 0].float().mean().item()
        accuracy[f'left@{canvas}'] = (logits[..., 10:].argmax(-1) == left)[on_right].float().mean().item()
    return accuracy


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """One step on a batch of :func:`draw`."""
    images, own, left = batch
    logits = model(images).transpose(1, 2)
    loss = F.cross_entropy(logits[:, :10], own, ignore_index=-1) + F.cross_entropy(
        logits[:, 10:], left, ignore_index=-1
    )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def step_times(names: Sequence[str], trial: Trial, rounds: int) -> dict[str, float]:
    """Median time of a training step over that of the yardstick, the variants taking turns in one run.

    Args:
        names: Names in :data:`VARIANTS`.
        trial: What all variants share.
        rounds: Steps of each variant.
    """
    names = list(dict.fromkeys([YARDSTICK, *names]))
    models = {name: TrialModel(VARIANTS[name], trial) for name in names}
    optimizers = {name: torch.optim.AdamW(model.parameters()) for name, model in models.items()}
    batch = draw(trial, 'train', trial.canvas, trial.batch, np.random.default_rng(0))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds + 1):
        for name in names:
            start = time.perf_counter()
            train_step(models[name], optimizers[name], batch)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {name: medians[name] / medians[YARDSTICK] for name in names}


COLUMNS = ('variant', 'seed', 'parameters', 'settings')  # of a file, beside the figures


def run(out: Path, seeds: Iterable[int], names: Sequence[str] | None = None, trial: Trial | None = None) -> None:
    """Run every variant with every seed that ``out`` does not hold yet; each finished run is written at once.

    Args:
        out: CSV file, one row a run.
        seeds: Seeds.
        names: Names in :data:`VARIANTS`; all by default.
        trial: What all variants share; the settings are a column of the file.

    Raises:
        UserError: A name is unknown, or ``out`` holds runs of other settings.
    """
    trial = trial or Trial()
    names = list(names or VARIANTS)
    for name in names:
        if name not in VARIANTS:
            raise UserError(f'variant {name!r} is unknown; take one of: {"; ".join(VARIANTS)}')
    settings = ' '.join(f'{key}={value}' for key, value in asdict(trial).items())
    rows = read_rows(out, COLUMNS)
    if any(row['settings'] != settings for row in rows):
        raise UserError(f'{out} holds runs of other settings ({rows[0]["settings"]}); name another file with --out')
    done = {(row['variant'], int(row['seed'])) for row in rows}
    todo = [(name, seed) for seed in seeds for name in names if (name, seed) not in done]
    with tqdm(total=len(todo) * trial.steps, unit='step', desc='trial') as bar:
        for name, seed in todo:
            bar.set_postfix_str(f'{name}, seed {seed}')
            accuracy = run_variant(VARIANTS[name], trial, seed, bar.update)
            row = dict(
                variant=name,
                seed=seed,
                **{key: f'{value:.4f}' for key, value in accuracy.items()},
                parameters=count_parameters(TrialModel(VARIANTS[name], trial)),
                settings=settings,
                machine=f'{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}',
                date=date.today().isoformat(),
            )
            append_rows(out, [row])


def table(path: Path, times: dict[str, float] | None = None) -> str:
    """Mean and standard deviation over the seeds as a Markdown table, in the order of :data:`VARIANTS`.

    Args:
        path: File that :func:`run` wrote.
        times: Result of :func:`step_times`, for a column of its own.
    """
    rows = read_rows(path, COLUMNS)
    if not rows:
        raise UserError(f'{path} holds no runs; make it with tools/ablate_attention.py run --out {path}')
    metrics = [key for key in rows[0] if '@' in key]
    head = ['operator', 'seeds', 'parameters', *metrics] + (['step time'] if times else [])
    lines = ['| ' + ' | '.join(head) + ' |', '|---|' + '---:|' * (len(head) - 1)]
    for name in VARIANTS:
        runs = [row for row in rows if row['variant'] == name]
        if runs:
            cells = [name, str(len(runs)), runs[0]['parameters']]
            cells += [_mean_and_deviation([float(row[metric]) for row in runs]) for metric in metrics]
            lines.append('| ' + ' | '.join(cells + ([f'{times[name]:.2f}'] if times else [])) + ' |')
    return '\n'.join(lines)


def _mean_and_deviation(values: list[float]) -> str:
    mean = f'{statistics.fmean(values):.3f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.3f}'
