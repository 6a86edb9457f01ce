"""The page of the attention operators, docs/operators.md, made from what they say of themselves."""

from __future__ import annotations

import inspect
import re
from functools import cache

from torch import nn

from ..attention import ATTENTION
from ..backbone import LiSA
from ..complexity import count_macs, count_parameters

__all__ = ['PAGE', 'operators_page']

PAGE = 'docs/operators.md'
_SIZE = 224
_HEAD = '''# The attention operators

Generated from the registry by `python tools/leaderboard.py lint --mend`, and checked by `lint`; do not edit.

Each is one file in `lisa_backbone/attention/` and one line in a config:

```python
model = dict(backbone=dict(attention=dict(type='GlobalFilter')))  # or a list of four, one for each stage
```

Stem, norms, feed-forward network, layer scale and recipe are the same for all. What a paper adds around its operator
(its own embedding, feed-forward network or positions) is left out, so that operators are compared and not recipes.
There is no absolute position embedding; padding in the convolutions between the stages lets borders be felt.

A new operator is one file:

```python
@register_attention  # from .registry, as About and check_tokens
class Mine(nn.Module):
    """One line for this page.

    Args:
        dim: Number of channels.
        num_heads: Number of heads.
    """

    about: ClassVar[About] = About(source='the paper', equation='y_i = ...', cost='N')

    def __init__(self, dim, num_heads): ...  # further arguments are options, each with a line in Args

    def forward(self, x, grid): ...  # tokens x (B, L, C) on a grid of 1, 2 or 3 sizes to tokens of that shape
```

It stands in `lisa_backbone/attention/` and is imported in `__init__.py` there. Then `python tools/leaderboard.py run
--attention Mine` makes it a row, and the contract tests in `tests/test_attention.py` run over it. It may as well lie in
a package of your own that Python finds (installed, or its folder on `PYTHONPATH`). Its name is its path then, in
configs and on command lines, and it needs neither `register_attention` nor `about`:

```bash
python tools/train.py configs/pretrain/lisa-p_mini-imagenet.py \\
    --cfg-options model.backbone.attention.type=my_package.Mine
python tools/leaderboard.py run --attention SelfAttention my_package.Mine --results work_dirs/mine.jsonl
```

- **Cost** is the growth of time and memory with the number N of tokens. Below N^2 a test holds the operator to making
  no tensor of N x N elements, forward or backward, at 3072 tokens; on small grids some make one, for it is faster.
- **Grids**: images have two axes and videos three (T, H, W), attended to jointly but by WindowAttention, which takes
  each frame for itself. An operator without three says so when it is given a video.
- **Inflates**: on a clip of identical frames a model with the weights of an image model gives the maps of the image, to
  rounding. Where it does not, the section of the operator says why, and that all frames get the same if they do. On a
  clip of one frame every operator of three axes gives what it gives of the image. Tests hold them to all of that.
- **Parameters and MACs** are those of the LiSA backbone of size pico with this operator, at {size} x {size}; a width
  of the backbone (`arch=dict(embed_dims=...)`) matches either. MACs are counted from the operations that run.
- Every operator is tested against a slow form written from its equation, in values and all gradients, in float64, on
  odd grids.

The backbone around it, `model.backbone` of a config with `type='LiSA'`, has the options

{backbone}
'''


def operators_page() -> str:
    """The page as Markdown."""
    lines = [
        '| operator | cost | grids | inflates | parameters, M | MACs, G | symmetry |',
        '|---|---|---|---|---:|---:|---|',
    ]
    for name in sorted(ATTENTION):
        about = ATTENTION[name].about
        parameters, macs = _costs(name)
        axes = ', '.join(map(str, about.axes))
        inflates = 'yes' if about.inflates else 'frames alike' if about.frames_alike else ''
        lines.append(
            f'| [{name}](#{name.lower()}) | {about.cost} | {axes} | {inflates} | {parameters / 1e6:.3f} | '
            f'{macs / 1e9:.3f} | {about.symmetry} |'
        )
    text = _HEAD.format(size=_SIZE, backbone=_options(LiSA)) + '\n'.join(lines) + '\n'
    for name in sorted(ATTENTION):
        text += '\n' + _section(name, ATTENTION[name])
    return text


@cache
def _costs(name: str) -> tuple[int, int]:
    """Parameters and MACs of the backbone with an operator."""
    backbone = LiSA(arch='pico', attention=name)
    return count_parameters(backbone), count_macs(backbone.to('meta'), (1, 3, _SIZE, _SIZE))


def _section(name: str, operator: type[nn.Module]) -> str:
    about = operator.about
    summary = _markdown(inspect.getdoc(operator).split('\n\n')[0])
    lines = [f'## {name}', '', summary, '', '```', about.equation, '```', '', f'Source: {about.source}.']
    options = _options(operator)
    if options:
        lines += ['', options.rstrip()]
    if about.not_inflated:
        what = 'get the same, but not what the image gets' if about.frames_alike else 'differ'
        lines += ['', f'On a clip of identical frames: the frames {what}. {about.not_inflated}']
    if about.left_out:
        lines += ['', f'Left out or done otherwise: {about.left_out}']
    return '\n'.join(lines) + '\n'


def _options(cls: type[nn.Module]) -> str:
    """The arguments of a class but width and heads, as its docstring tells them, in a Markdown table; none is empty.

    Raises:
        KeyError: The docstring lacks one of them.
    """
    parameters = list(inspect.signature(cls).parameters.values())
    told = _arguments(inspect.getdoc(cls))
    lines = [
        f'| `{one.name}` | `{one.default!r}` | {told[one.name]} |'
        for one in parameters
        if one.name not in ('dim', 'num_heads') and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    return '\n'.join(['| option | default | |', '|---|---|---|', *lines]) + '\n' if lines else ''


def _arguments(doc: str) -> dict[str, str]:
    """What the section ``Args:`` of a docstring says of each argument."""
    section = re.search(r'^Args:\n((?:    .*\n?|\n)*)', doc, re.M)
    entries = re.findall(r'^    (\w+): (.*(?:\n     .*)*)', section[1] if section else '', re.M)
    return {name: _markdown(text) for name, text in entries}


def _markdown(text: str) -> str:
    """A piece of a docstring in one line of Markdown."""
    text = re.sub(r'\s+', ' ', text).replace('|', '\\|')
    text = re.sub(r'``(.+?)``', r'`\1`', text)
    return re.sub(r':\w+:`[~.]*(.+?)`', r'`\1`', text)
