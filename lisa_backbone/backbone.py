"""The LiSA backbone: a four-stage pyramid of attention blocks, registered in mmengine's root registry."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .attention import build_attention
from .attention.rpe import ContinuousRPE
from .errors import UserError
from .feed_forward import FeedForward

NORMS = ('LN', 'BN', 'SyncBN')


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples (Huang et al., "Deep Networks with Stochastic Depth").

    Args:
        rate: Probability of dropping the branch; what is kept is scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape whose first axis is the batch."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f'rate={self.rate:.3f}'


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, *grid)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, *grid) to the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Pre-norm residual block: attention, then a two-layer feed-forward network.

    Args:
        dim: Number of channels.
        attention: The attention operator.
        mlp_ratio: Hidden width of the feed-forward network over ``dim``.
        drop_path_rate: Stochastic depth of both branches.
        layer_scale_init_value: Initial value of a learned scale of each branch (CaiT, Touvron et al., 2021); ``None``
            or 0 for none. A small value keeps what a fresh operator mixes from drowning the tokens.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, round(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.layer_scale1 = self.layer_scale2 = None
        if layer_scale_init_value:
            self.layer_scale1 = nn.Parameter(torch.full((dim,), float(layer_scale_init_value)))
            self.layer_scale2 = nn.Parameter(torch.full((dim,), float(layer_scale_init_value)))

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` to tokens (B, L, C)."""
        x = self._add(x, self.attention(self.norm1(x), grid), self.layer_scale1)
        return self._add(x, self.mlp(self.norm2(x)), self.layer_scale2)

    def _add(self, x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        branch = self.drop_path(branch)
        return x + branch if scale is None else torch.addcmul(x, branch, scale)


class Stage(nn.Module):
    """A strided convolutional embedding followed by blocks.

    Args:
        embed: Module that maps (N, C_in, *grid) to (N, C, *smaller grid).
        blocks: The blocks.
        norm: Norm of the output map, or ``None`` where the stage is no output.
        with_cp: Recompute the blocks in the backward pass to save memory.
    """

    def __init__(self, embed: nn.Module, blocks: Sequence[Block], norm: nn.Module | None, with_cp: bool) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = embed, nn.ModuleList(blocks), norm
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the map for the next stage and the output map, both (N, C, *grid)."""
        x = _frame_by_frame(self.embed, x)
        grid = tuple(x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            if self.with_cp and tokens.requires_grad and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, grid, use_reentrant=False)
            else:
                tokens = block(tokens, grid)
        out = None
        if self.norm is not None:
            # Contiguous, because mmcv's CPU operators read the memory as (N, C, H, W).
            out = self.norm(tokens).transpose(1, 2).unflatten(2, grid).contiguous()
        return tokens.transpose(1, 2).unflatten(2, grid), out


@MODELS.register_module()
class LiSA(BaseModule):
    """LiSA backbone: images (N, C, H, W) or videos (N, C, T, H, W) to feature maps at strides 4, 8, 16 and 32.

    The stem is two strided 3 x 3 convolutions, the later stages begin with one; sizes are rounded up, so that any is
    taken. Blocks hold the attention operator named by ``attention`` and a feed-forward network. There is no absolute
    position embedding.

    A video is attended to jointly in space and time: the tokens of all frames form one grid (T, H, W). Convolutions see
    one frame each, but for the first: with ``temporal_stride`` s it takes s frames at a time, so that the maps have
    ceil(T / s) steps; the last frame is repeated where T is no multiple. Weights of an image model load into a model
    with a temporal stride: each frame's share of the first convolution is the image's over s (Carreira and Zisserman,
    "Quo Vadis, Action Recognition?", 2017). All other weights are the same, since an RPE of three axes starts without
    weight on time. On a clip of identical frames every map then equals the image's.

    Args:
        arch: Name in :attr:`arch_zoo` (``'pico'``, ``'tiny'``, ``'small'``, ``'base'``) or a dict with the keys
            ``embed_dims``, ``depths``, ``num_heads`` and ``mlp_ratios``, each a sequence of four.
        in_channels: Number of image channels.
        out_indices: Stages (0 to 3) whose maps are returned, in this order. Stages past the last are not built.
        attention: Config of the operator for all stages, or a sequence of four.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        layer_scale_init_value: Initial layer scale of the residual branches; ``None`` for no layer scale.
        norm: Norm of the convolutional embeddings: ``'LN'``, ``'BN'`` or ``'SyncBN'``.
        temporal_stride: Frames that the first convolution takes at a time; above 1, the model takes videos only.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages: no gradient, evaluation mode.
        with_cp: Recompute blocks in the backward pass to save memory.
        norm_eval: Keep batch norms in evaluation mode while training.
        init_cfg: Weights to start from, ``dict(type='Pretrained', checkpoint=..., prefix=...)``.

    Raises:
        UserError: ``arch``, ``norm``, ``out_indices``, ``temporal_stride``, ``frozen_stages``, ``drop_path_rate`` or
            ``attention`` cannot be used.

    Examples:
        >>> import torch
        >>> from mmengine.registry import MODELS
        >>> import lisa_backbone
        >>> backbone = MODELS.build(dict(type='LiSA', arch='pico'))
        >>> [tuple(map_.shape) for map_ in backbone(torch.randn(1, 3, 65, 97))]
        [(1, 32, 17, 25), (1, 64, 9, 13), (1, 128, 5, 7), (1, 192, 3, 4)]
        >>> video_backbone = MODELS.build(dict(type='LiSA', arch='pico', temporal_stride=2, out_indices=(3,)))
        >>> [tuple(map_.shape) for map_ in video_backbone(torch.randn(1, 3, 8, 65, 97))]
        [(1, 192, 4, 3, 4)]
    """

    arch_zoo: ClassVar[dict[str, dict]] = {
        'pico': dict(embed_dims=(32, 64, 128, 192), depths=(1, 1, 2, 1), num_heads=(2, 4, 8, 12), mlp_ratios=(3,) * 4),
        'tiny': dict(
            embed_dims=(64, 128, 320, 512), depths=(2, 3, 14, 4), num_heads=(2, 4, 10, 16), mlp_ratios=(4,) * 4
        ),
        'small': dict(
            embed_dims=(64, 128, 384, 640), depths=(3, 5, 20, 4), num_heads=(2, 4, 12, 20), mlp_ratios=(4,) * 4
        ),
        'base': dict(
            embed_dims=(96, 192, 480, 768), depths=(3, 4, 22, 5), num_heads=(3, 6, 15, 24), mlp_ratios=(4,) * 4
        ),
    }

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        attention: dict | str | Sequence[dict | str] = 'LiSAttention',
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 0.1,
        norm: str = 'LN',
        temporal_stride: int = 1,
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = _resolve_arch(arch, self.arch_zoo)
        dims, depths = self.arch['embed_dims'], self.arch['depths']
        self.in_channels, self.embed_dims = in_channels, dims
        self.out_indices = _check_stages(out_indices)
        self.norm_eval = norm_eval
        if not isinstance(temporal_stride, int) or temporal_stride < 1:
            raise UserError(f'temporal_stride={temporal_stride!r} must be a whole number of frames, at least 1')
        self.temporal_stride = temporal_stride
        if not 0 <= drop_path_rate < 1:
            raise UserError(f'drop_path_rate={drop_path_rate} must be at least 0 and below 1')
        num_stages = max(self.out_indices) + 1
        if not -1 <= frozen_stages <= num_stages:
            raise UserError(f'frozen_stages={frozen_stages} is out of range; this model takes -1 to {num_stages}')
        self.frozen_stages = frozen_stages
        operators = [attention] * 4 if isinstance(attention, dict | str) else list(attention)
        if len(operators) != 4:
            raise UserError(f'attention holds {len(operators)} configs; give one for all stages or a sequence of four')

        rates = [drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.stages = nn.ModuleList()
        for i in range(num_stages):
            widths = (in_channels * temporal_stride, dims[0] // 2, dims[0]) if i == 0 else (dims[i - 1], dims[i])
            blocks = [
                Block(
                    dims[i],
                    build_attention(operators[i], dims[i], self.arch['num_heads'][i]),
                    self.arch['mlp_ratios'][i],
                    rates[sum(depths[:i]) + j],
                    layer_scale_init_value,
                )
                for j in range(depths[i])
            ]
            output_norm = nn.LayerNorm(dims[i]) if i in self.out_indices else None
            self.stages.append(Stage(_embed(widths, norm), blocks, output_norm, with_cp))
        self.apply(_init_weights)
        self.register_load_state_dict_pre_hook(_inflate_stem)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, C, H, W) or videos (N, C, T, H, W) to the maps of ``out_indices``, of as many axes.

        Raises:
            UserError: The input is neither, has another number of channels than ``in_channels``, or is an image where
                ``temporal_stride`` is above 1.
        """
        if x.dim() not in (4, 5) or x.shape[1] != self.in_channels:
            raise UserError(
                f'LiSA was built for images (N, {self.in_channels}, H, W) or videos (N, {self.in_channels}, T, H, W) '
                f'and got {tuple(x.shape)}; set in_channels or mend the data pipeline'
            )
        if self.temporal_stride > 1:
            if x.dim() == 4:
                raise UserError(
                    f'LiSA with temporal_stride={self.temporal_stride} takes videos (N, C, T, H, W) and got '
                    f'{tuple(x.shape)}; set temporal_stride=1 for images'
                )
            x = _stack_frames(x, self.temporal_stride)
        outs = {}
        for i, stage in enumerate(self.stages):
            x, outs[i] = stage(x)
        return tuple(outs[i] for i in self.out_indices)

    def train(self, mode: bool = True) -> LiSA:
        """Set training mode, but for what is frozen."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        frozen: list[nn.Module] = list(self.stages[: max(self.frozen_stages, 0)])
        if self.frozen_stages == 0:
            frozen.append(self.stages[0].embed)
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


def _frame_by_frame(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module of images to images (N, C, H, W) or to every frame of videos (N, C, T, H, W)."""
    if x.dim() == 4:
        return module(x)
    frames = x.transpose(1, 2)
    return module(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


def _stack_frames(x: Tensor, count: int) -> Tensor:
    """Put each ``count`` frames of (N, C, T, H, W) into the channels: (N, C * count, ceil(T / count), H, W)."""
    lacking = -x.shape[2] % count
    if lacking:
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, lacking, -1, -1)], dim=2)
    return x.unflatten(2, (-1, count)).movedim(3, 2).flatten(1, 2)


def _inflate_stem(model: LiSA, state: dict, prefix: str, *args) -> None:
    """Spread the first convolution of an image model over the frames that the one of a video model takes."""
    key = f'{prefix}stages.0.embed.0.weight'
    weight = state.get(key)
    if model.temporal_stride > 1 and isinstance(weight, Tensor) and weight.shape[1:2] == (model.in_channels,):
        state[key] = weight.repeat_interleave(model.temporal_stride, dim=1) / model.temporal_stride


def _embed(widths: Sequence[int], norm: str) -> nn.Sequential:
    """3 x 3 convolutions of stride 2 through the given widths, a norm after each and GELU between them."""
    if norm not in NORMS:
        raise UserError(f'norm {norm!r} is unknown; take one of {", ".join(NORMS)}')
    make_norm = {'LN': ChannelNorm, 'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}[norm]
    layers = []
    for i, (width_in, width) in enumerate(pairwise(widths)):
        if i:
            layers.append(nn.GELU())
        layers += [nn.Conv2d(width_in, width, 3, stride=2, padding=1), make_norm(width)]
    return nn.Sequential(*layers)


def _resolve_arch(arch: str | dict, zoo: dict[str, dict]) -> dict:
    keys = ('embed_dims', 'depths', 'num_heads', 'mlp_ratios')
    if isinstance(arch, str):
        if arch not in zoo:
            near = difflib.get_close_matches(arch, zoo, n=1)
            hint = f' (did you mean {near[0]!r}?)' if near else ''
            raise UserError(f'arch {arch!r} is unknown to LiSA{hint}; take one of {", ".join(zoo)} or give a dict')
        return zoo[arch]
    if set(arch) != set(keys):
        raise UserError(f'arch has the keys {", ".join(sorted(arch))}; a LiSA arch needs just {", ".join(keys)}')
    for key in keys:
        if len(arch[key]) != 4:
            raise UserError(f'arch[{key!r}] holds {len(arch[key])} values; a LiSA arch needs four, one for each stage')
    return {key: tuple(arch[key]) for key in keys}


def _check_stages(out_indices: Sequence[int]) -> tuple[int, ...]:
    indices = tuple(out_indices)
    if not indices or not all(i in range(4) for i in indices) or len(set(indices)) != len(indices):
        raise UserError(f'out_indices={indices} must be distinct stages out of 0, 1, 2, 3')
    return indices


def _init_weights(module: nn.Module) -> None:
    # Scaled to the width: the usual 0.02 all but silences layers as narrow as those of pico.
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ContinuousRPE):  # visited after its linear layers
        module.ignore_time()
