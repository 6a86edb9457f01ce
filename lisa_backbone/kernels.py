"""How discriminative the kernels of a trained model are: their rank, and how alike they are.

The kernel of a head is its N x N matrix of weights of the tokens. Redundancy is what LiSA's paper holds against softmax
attention: kernels of low rank, alike from query to query and from head to head. Measured on the images that a model is
tested on, for each stage, as means over images, blocks and heads.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from . import compat
from .backbone import LiSA
from .checkpoints import check_checkpoint
from .collect import RECORD_FILE
from .config import load_config, null_empty_pretrained
from .errors import UserError
from .figures import colours, save
from .preflight import build_model
from .records import validate

__all__ = [
    'COLUMNS',
    'MEASURES',
    'draw',
    'effective_rank',
    'head_similarity',
    'measure_kernels',
    'measure_run',
    'query_similarity',
    'record_in',
    'table',
]

MEASURES = ('effective rank', 'similarity of queries', 'similarity of heads')
COLUMNS = ('task', 'model', 'seed', 'stage', 'tokens', 'measure', 'value')  # of a file, as far as they are read


def effective_rank(kernel: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values, from 1 to N.

    After Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, Definition 1.

    Args:
        kernel: (..., N, N).

    Returns:
        (...).
    """
    values = torch.linalg.svdvals(kernel.double())
    shares = values / values.sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1).exp()


def query_similarity(kernel: Tensor) -> Tensor:
    """Mean cosine similarity of the kernels (rows) of two different queries.

    Args:
        kernel: (..., N, N) with N > 1.

    Returns:
        (...).
    """
    return _mean_similarity(kernel.double())


def head_similarity(kernel: Tensor) -> Tensor:
    """Mean cosine similarity of the kernels of two different heads for the same query.

    Args:
        kernel: (..., heads, N, N) with at least two heads.

    Returns:
        (...).
    """
    return _mean_similarity(kernel.double().transpose(-3, -2)).mean(dim=-1)


def _mean_similarity(rows: Tensor) -> Tensor:
    """Mean cosine similarity of two different rows of (..., n, d)."""
    rows, count = F.normalize(rows, dim=-1), rows.shape[-2]
    # The sum over all pairs is the squared length of the sum; those of a row with itself are left out.
    return (rows.sum(dim=-2).square().sum(dim=-1) - rows.square().sum(dim=(-1, -2))) / (count * (count - 1))


def measure_kernels(backbone: LiSA, batches: Iterable[Tensor]) -> dict[int, dict[str, float]]:
    """The measures of a model's kernels.

    Args:
        backbone: A LiSA backbone whose operators have a ``kernel`` method.
        batches: Its inputs, preprocessed, (N, C, H, W) or (N, C, T, H, W).

    Returns:
        For each stage from 0 the means of :data:`MEASURES`, the effective rank as a share of the number of tokens, and
        that number as ``'tokens'``. Stages of one token are left out, and heads where there is but one.

    Raises:
        UserError: An operator has no kernel.
    """
    sums: dict[tuple[int, str], list[Tensor]] = defaultdict(list)
    tokens: dict[int, int] = {}

    def note(stage: int, attention: nn.Module, inputs: tuple) -> None:
        x, grid = inputs
        count = x.shape[1]
        if count == 1:
            return
        kernel = attention.kernel(x, grid)
        tokens[stage] = count
        sums[stage, MEASURES[0]].append(effective_rank(kernel).flatten() / count)
        sums[stage, MEASURES[1]].append(query_similarity(kernel).flatten())
        if kernel.shape[1] > 1:
            sums[stage, MEASURES[2]].append(head_similarity(kernel).flatten())

    with ExitStack() as hooks, torch.no_grad():
        for number, stage in enumerate(backbone.stages):
            for block in stage.blocks:
                if not hasattr(block.attention, 'kernel'):
                    raise UserError(f'{type(block.attention).__name__} has no kernel that could be measured')

                def hook(module: nn.Module, inputs: tuple, number: int = number) -> None:
                    note(number, module, inputs)

                hooks.enter_context(block.attention.register_forward_pre_hook(hook))
        for batch in batches:
            backbone(batch)
    found: dict[int, dict[str, float]] = {stage: {'tokens': count} for stage, count in sorted(tokens.items())}
    for (stage, measure), values in sums.items():
        found[stage][measure] = torch.cat(values).mean().item()
    return found


def record_in(work_dir: Path) -> dict[str, Any]:
    """The record of a run that was trained and tested.

    Args:
        work_dir: Its work directory.

    Raises:
        UserError: It has none.
    """
    path = work_dir / RECORD_FILE
    try:
        return validate(json.loads(path.read_text()), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f'{work_dir} has no {RECORD_FILE}; train and test there first') from error
    except ValueError as error:
        raise UserError(f'{path} is not JSON ({error}); test there again') from error


def measure_run(work_dir: Path, images: int, data_root: str | None = None) -> list[dict[str, Any]]:
    """The measures of a trained model on the first images of its test set.

    Args:
        work_dir: Work directory of a run that was trained and tested; it holds its record and checkpoint.
        images: Number of images.
        data_root: Where the data lie, if not where the config says.

    Returns:
        A row for each stage and measure.

    Raises:
        UserError: There is no such run, its backbone is not LiSA, or an operator has no kernel.
    """
    compat.apply()
    record = record_in(work_dir)
    # The record has the path within the checkout, where it lay in one.
    checkpoint = work_dir / Path(record['weights']['tested']['file']).name
    configs = sorted(work_dir.glob('*.py'))
    if not configs or not checkpoint.is_file():
        raise UserError(f'{work_dir} lacks its config or {checkpoint.name}; train and test there first')
    cfg = load_config(configs[0], {} if data_root is None else {'data_root': data_root})
    null_empty_pretrained(cfg)
    model = build_model(cfg.model, cfg.get('data_preprocessor')).eval()
    if not isinstance(model.backbone, LiSA):
        raise UserError(f'the backbone of {work_dir} is {type(model.backbone).__name__}, not LiSA')
    check_checkpoint(model, str(checkpoint))
    batches = _inputs(model, cfg, images)
    rows = []
    for stage, found in measure_kernels(model.backbone, tqdm(batches, desc=record['model'], unit='image')).items():
        for measure in MEASURES:
            if measure in found:
                rows.append(
                    {
                        'task': record['task'],
                        'model': record['model'],
                        'seed': record['seed'],
                        'weights': record['weights']['tested']['sha256'],
                        'images': images,
                        'stage': stage + 1,
                        'tokens': found['tokens'],
                        'measure': measure,
                        'value': f'{found[measure]:.4f}',
                    }
                )
    return rows


def _inputs(model: nn.Module, cfg: Any, images: int) -> Iterable[Tensor]:
    """The first images of the test set, each as the backbone gets it."""
    loader = dict(cfg.test_dataloader, batch_size=1, num_workers=0, persistent_workers=False)
    batches = []
    for batch in Runner.build_dataloader(loader):
        batches.append(model.data_preprocessor(batch, False)['inputs'])
        if len(batches) == images:
            return batches
    raise UserError(f'the test set has {len(batches)} images and {images} were asked for; lower --images')


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds as a Markdown table: a row for each task, model and stage.

    Args:
        rows: Rows of :func:`measure_run`.
    """
    lines = [
        '| task | model | stage | tokens | seeds | ' + ' | '.join(MEASURES) + ' |',
        '|---|---|---:|---:|---:|' + '---:|' * len(MEASURES),
    ]
    for (task, model, stage), values in _grouped(rows).items():
        tokens = next(row['tokens'] for row in rows if _key(row) == (task, model, stage))
        seeds = max(len(found) for found in values.values())
        cells = [_cell(values.get(measure, ())) for measure in MEASURES]
        lines.append(f'| {task} | {model} | {stage} | {tokens} | {seeds} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the measures over the stages, a line for each model, its spread over the seeds as bars.

    Args:
        rows: Rows of :func:`measure_run`.
        path: The picture, PNG or SVG.
    """
    from matplotlib.figure import Figure

    grouped = _grouped(rows)
    models = list(dict.fromkeys((task, model) for task, model, _ in grouped))
    several = len({task for task, _ in models}) > 1
    figure = Figure(figsize=(11, 3.4), layout='constrained')
    painted = colours([model for _, model in models])
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for shift, ((task, model), colour) in enumerate(zip(models, painted, strict=True)):
            found = [(int(key[2]), values[measure]) for key, values in grouped.items() if key[:2] == (task, model)]
            found = [(stage, values) for stage, values in found if values]
            places = [stage + 0.04 * (shift - (len(models) - 1) / 2) for stage, _ in found]
            means = [statistics.fmean(values) for _, values in found]
            spreads = [statistics.stdev(values) if len(values) > 1 else 0 for _, values in found]
            bars = {'yerr': spreads, 'capsize': 2} if any(spreads) else {}  # none of one seed
            label = f'{model}, {task}' if several else model
            axes.errorbar(places, means, marker='o', color=colour, label=label, **bars)
        unit = 'share of the tokens' if measure == MEASURES[0] else 'mean cosine'
        axes.set(title=measure, xlabel='stage', ylabel=unit, xticks=range(1, 5), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize='small')
    save(figure, path)


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row['task'], row['model'], str(row['stage'])


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, list[float]]]:
    """The values over the seeds, by task, model and stage, then by measure."""
    grouped: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        measures = grouped.setdefault(_key(row), defaultdict(list))
        measures[row['measure']].append(float(row['value']))
    return grouped


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ''
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.3f}{spread}'
