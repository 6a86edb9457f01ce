"""Attention operators: modules that map tokens on a 1-, 2- or 3-D grid to tokens on the same grid, torch only.

Every operator is built as ``Operator(dim, num_heads, **options)`` and called as ``operator(x, grid)`` with ``x`` of
shape (B, L, C) and ``grid`` a tuple of 1, 2 or 3 sizes whose product is L; it returns (B, L, C).
"""

from .average_pooling import AveragePooling
from .ladder_attention import LadderAttention
from .lisa import LiSAttention
from .neighborhood_attention import NeighborhoodAttention
from .no_mixing import NoMixing
from .pale_attention import PaleAttention
from .pattern_code import PatternCodeAttention
from .registry import ATTENTION, About, build_attention, register_attention
from .self_attention import SelfAttention
from .shunted_attention import ShuntedAttention
from .window_attention import WindowAttention

__all__ = [
    'ATTENTION',
    'About',
    'AveragePooling',
    'LadderAttention',
    'LiSAttention',
    'NeighborhoodAttention',
    'NoMixing',
    'PaleAttention',
    'PatternCodeAttention',
    'SelfAttention',
    'ShuntedAttention',
    'WindowAttention',
    'build_attention',
    'register_attention',
]
