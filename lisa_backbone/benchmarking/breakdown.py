"""Where the time of a pass goes: by part of the model and kind of operation, forward and backward, on a processor."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from ..provenance import dated
from .candidates import Candidate
from .passes import make_pass
from .settings import Settings, sizes

__all__ = ['KINDS', 'break_down', 'parts_of', 'profile_candidate', 'table']

# Kinds of operations by the names that torch gives them; the first that matches counts.
_NAMES = {
    'matrix products': r'aten::(addmm|mm|bmm|baddbmm|addbmm|_scaled_dot_product.*|mkldnn_linear)',
    'convolutions': r'aten::.*conv.*',
    'transforms': r'aten::_fft_.*',
    'norms': r'aten::native_(layer|batch|group)_norm.*|aten::.*batch_norm.*',
    'activations': r'aten::(gelu|relu|threshold|hardtanh|silu|sigmoid|tanh|elu|_?softmax|_softmax_.*)(_?backward.*|_)?',
    'copies': r'aten::(copy_|cat|_?index.*|roll|repeat.*|constant_pad.*|as_strided.*|(slice|select)_backward)',
}
KINDS = (*_NAMES, 'other')
_PATTERNS = {kind: re.compile(names) for kind, names in _NAMES.items()}
_PART = 'part of the model: '
_BACKWARD = 'autograd::engine::evaluate_function: '
REST = 'rest'


def profile_candidate(candidate: Candidate, settings: Settings, passes: int = 3) -> list[dict[str, Any]]:
    """Profile passes of a candidate, after one that is not.

    Args:
        candidate: The candidate.
        settings: Of these the first shape, mode and batch, and the threads.
        passes: Number of passes.

    Returns:
        The rows of :func:`break_down`, with what was measured and where.

    Raises:
        UserError: The candidate cannot be built.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    group = settings.groups()[0]
    model = candidate.build(group.shape)
    size = candidate.input_shape(group.shape)
    run = make_pass(model, size, group.batch, group.mode, settings.dtype, settings.device)
    run()
    named = name_of(candidate, settings)
    measured = {**settings.conditions(), **dated()}
    return [{**named, **row, **measured} for row in break_down(run, parts_of(model), passes)]


def name_of(candidate: Candidate, settings: Settings) -> dict[str, Any]:
    """The columns that tell what :func:`profile_candidate` measures."""
    group = settings.groups()[0]
    return {'candidate': candidate.label, 'mode': group.mode, 'input': sizes(group.shape), 'batch': group.batch}


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a model by name; what lies in several is of the innermost.

    Args:
        model: Any model. One with the stages of LiSA has its embeddings, attention and feed-forward networks apart;
            another its children, and the children of its lists of modules.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        listed = isinstance(child, nn.ModuleList | nn.Sequential) and len(child)
        for path, module in [(f'{name}.{i}', one) for i, one in child.named_children()] if listed else [(name, child)]:
            parts[path] = module
            if hasattr(module, 'embed') and hasattr(module, 'blocks'):
                parts[f'{path} embed'] = module.embed
                for number, block in enumerate(module.blocks):
                    parts[f'{path} attention {number}'] = block.attention
                    parts[f'{path} feed-forward {number}'] = block.mlp
    return parts


def break_down(run: Callable[[], None], parts: Mapping[str, nn.Module], passes: int = 3) -> list[dict[str, Any]]:
    """Profile passes that run on a processor.

    What an operation takes itself counts, without the operations that it calls. That of the backward pass is of the
    part whose forward pass asks for it.

    Args:
        run: Does one pass; it has run before.
        parts: Modules by name; names that differ by a number at their end, after a space, are one part.
        passes: Number of passes.

    Returns:
        A row for each part and kind that takes time: ``part``, ``kind``, ``forward_ms`` and ``backward_ms`` of a pass.
    """
    with _named(parts), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(passes):
            run()
    events = profiler.events()
    # Several operations may have one number; the node of the backward pass is that of the last of them.
    owners = {event.sequence_nr: _part(event) for event in events if event.sequence_nr >= 0 and not _node(event)}
    spent: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        node = _node(event)
        part = owners.get(node.sequence_nr) if node else _part(event)
        spent[part or REST, _kind(event.name)][bool(node)] += event.self_cpu_time_total / 1000 / passes
    order = list(dict.fromkeys([*map(_short, parts), REST]))
    return [
        {'part': part, 'kind': kind, 'forward_ms': spent[part, kind][0], 'backward_ms': spent[part, kind][1]}
        for part in order
        for kind in KINDS
        if sum(spent[part, kind])
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of :func:`break_down` as a Markdown table: a line for each part, kinds in percent of the whole pass."""
    whole = _sum(rows)
    kinds = [kind for kind in KINDS if any(row['kind'] == kind for row in rows)]
    heads = ['part', 'forward, ms', 'backward, ms', 'share', *kinds]
    lines = [f'| {" | ".join(heads)} |', '|---|' + '---:|' * (len(heads) - 1)]
    parts = dict.fromkeys(row['part'] for row in rows)
    for name, wanted in [*((part, {part}) for part in parts), ('all', set(parts))]:
        mine = [row for row in rows if row['part'] in wanted]
        forward, backward = (sum(float(row[key]) for row in mine) for key in ('forward_ms', 'backward_ms'))
        spent = [forward + backward, *(_sum(row for row in mine if row['kind'] == kind) for kind in kinds)]
        cells = [name, f'{forward:.1f}', f'{backward:.1f}', *(f'{100 * value / whole:.1f} %' for value in spent)]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _sum(rows: Iterable[Mapping[str, Any]]) -> float:
    return sum(float(row['forward_ms']) + float(row['backward_ms']) for row in rows)


@contextmanager
def _named(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Have the profiler see where each part begins and ends."""
    handles, stack = [], []

    def enter(name: str) -> Callable:
        def hook(module: nn.Module, args: Any) -> None:
            stack.append(record_function(_PART + name))
            stack[-1].__enter__()

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop().__exit__(None, None, None)

    try:
        for name, module in parts.items():
            handles += [module.register_forward_pre_hook(enter(_short(name))), module.register_forward_hook(leave)]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _short(name: str) -> str:
    return re.sub(r' \d+$', '', name)


def _ancestors(event: FunctionEvent) -> Iterator[FunctionEvent]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _part(event: FunctionEvent) -> str | None:
    return next((one.name[len(_PART) :] for one in _ancestors(event) if one.name.startswith(_PART)), None)


def _node(event: FunctionEvent) -> FunctionEvent | None:
    """The node of the backward pass that an event is part of."""
    return next((one for one in _ancestors(event) if one.name.startswith(_BACKWARD)), None)


def _kind(name: str) -> str:
    return next((kind for kind, names in _PATTERNS.items() if names.fullmatch(name)), 'other')
