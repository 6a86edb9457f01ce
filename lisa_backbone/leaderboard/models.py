"""What a sweep trains: the models of its table, and the overrides that make each of them of a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import split_pairs
from ..attention import About, build_attention, find_attention
from ..collect import attention_of
from ..config import load_config, parse_options
from ..errors import UserError
from ..provenance import LOCAL_OPTIONS
from ..tasks import MINI_TASKS, REAL_TASKS, Task
from .recipes import batch_options, public_weights

__all__ = [
    'PRETRAINED',
    'Model',
    'attention_options',
    'first_of',
    'is_local',
    'list_models',
    'recipe_options',
    'weights_of',
]

PRETRAINED = 'model.backbone.init_cfg.checkpoint'


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: As the names of the configs have it: ``'lisa-p'``.
        attention: The operator of a LiSA backbone, ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``, the values as its
            record has them, however they are written; empty for another backbone.
    """

    name: str
    attention: str = ''

    def __post_init__(self) -> None:
        if self.attention:
            parsed = _parse_attention(self.attention)
            object.__setattr__(self, 'attention', attention_of({'type': 'LiSA', 'attention': parsed}))

    def __str__(self) -> str:
        return f'{self.name}, {self.attention}' if self.attention else self.name

    def takes(self, task: Task) -> bool:
        """Whether the operator, if there is one, has a form for the grids of a task."""
        if not self.attention:
            return True
        about = getattr(find_attention(self.attention.partition(':')[0]), 'about', None)
        return task.axes in (about.axes if about else About.axes)  # one of another package may say nothing


def attention_options(attention: str) -> list[str]:
    """Overrides that put an operator into a config.

    Args:
        attention: ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``; empty for none.

    Returns:
        ``KEY=VALUE`` pairs for ``--cfg-options``.

    Raises:
        UserError: The operator or an option of it is unknown.
    """
    if not attention:
        return []
    build_attention(_parse_attention(attention), 32, 2)
    name = attention.partition(':')[0]
    return [f'model.backbone.attention.{pair}' for pair in (f'type={name}', *split_pairs(attention))]


def _parse_attention(attention: str) -> dict[str, Any]:
    name = attention.partition(':')[0]
    return {'type': name, **parse_options(split_pairs(attention))}


def first_of(task: Task, model: Model, root: Path) -> Task | None:
    """The task from whose trained weights a model starts.

    Args:
        task: The task.
        model: The model.
        root: The checkout.

    Returns:
        The task; ``None`` where there is none, or a real one for which the model has no config.
    """
    first = next((one for one in MINI_TASKS + REAL_TASKS if one.name == task.initial), None)
    return first if first and (first.mini or (root / first.config_of(model.name)).is_file()) else None


def weights_of(task: Task, model: Model, root: Path) -> list[str]:
    """Overrides that start a model from public weights, where no task of the leaderboard makes them.

    Args:
        task: The task.
        model: The model.
        root: The checkout.

    Returns:
        ``KEY=VALUE`` pairs for ``--cfg-options``; none where weights are trained here, or none are started from.

    Raises:
        UserError: Weights are needed and the config names none.
    """
    if task.mini or not task.initial or first_of(task, model, root):
        return []
    return public_weights(load_config(root / task.config_of(model.name)))


def recipe_options(task: Task, model: Model, root: Path, processes: int, further: Sequence[str] = ()) -> list[str]:
    """Overrides of a run that nobody changes: operator, those of the task, and of a real one the batch and weights.

    Args:
        task: The task.
        model: The model.
        root: The checkout.
        processes: Processes that train.
        further: Overrides of the user, which may change the batch of each.

    Returns:
        ``KEY=VALUE`` pairs for ``--cfg-options``, but for those that only say where files lie.
    """
    options = [*attention_options(model.attention), *task.options]
    if not task.mini:
        cfg = load_config(root / task.config_of(model.name), parse_options([*options, *further]))
        options += batch_options(cfg, processes)
        options += [pair for pair in weights_of(task, model, root) if not is_local(pair)]
    return options


def is_local(pair: str) -> bool:
    """Whether an override only says where a file lies, which is no part of the setting of a run."""
    return pair.partition('=')[0] in LOCAL_OPTIONS


def list_models(names: Sequence[str], attentions: Sequence[str], tasks: Sequence[Task], root: Path) -> list[Model]:
    """The models that names and operators make: each operator in each LiSA backbone, other backbones as they are.

    Args:
        names: Models, as the names of the configs have them.
        attentions: Operators.
        tasks: The tasks, of which each must have a config of each model.
        root: The checkout.

    Raises:
        UserError: A config is missing, or an operator is unknown.
    """
    for attention in attentions:
        attention_options(attention)
    models = []
    for name in dict.fromkeys(names):
        lacking = [task.config_of(name) for task in tasks if not (root / task.config_of(name)).is_file()]
        if lacking:
            known = sorted({model for path in root.glob('configs/*/*.py') for model in _models_of(path, tasks, root)})
            raise UserError(f'model {name!r} has no config {lacking[0]}; there are {", ".join(known)}')
        takes = attention_of(load_config(root / tasks[0].config_of(name)).model.backbone) is not None
        models += [Model(name, attention) for attention in attentions] if takes else [Model(name)]
    return list(dict.fromkeys(models))


def _models_of(path: Path, tasks: Sequence[Task], root: Path) -> list[str]:
    found = (task.model_of(path.relative_to(root).as_posix()) for task in tasks)
    return [model for model in found if model]
