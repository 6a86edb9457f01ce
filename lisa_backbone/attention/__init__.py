"""Attention operators: modules that map tokens on a 1-, 2- or 3-D grid to tokens on the same grid, torch only.

Every operator is built as ``Operator(dim, num_heads, **options)`` and called as ``operator(x, grid)`` with ``x`` of
shape (B, L, C) and ``grid`` a tuple of 1, 2 or 3 sizes whose product is L; it returns (B, L, C).
"""

from .fibottention import Fibottention
from .focused_linear_attention import FocusedLinearAttention
from .lisa import LiSAttention
from .lsla import LSLA
from .no_mixing import NoMixing
from .pattern_code import PatternCodeAttention
from .registry import ATTENTION, About, build_attention, register_attention
from .self_attention import SelfAttention
from .soft import SOFT
from .tssa import TSSA
from .vicinity_attention import VicinityAttention
from .xca import XCA

__all__ = [
    'ATTENTION',
    'LSLA',
    'SOFT',
    'TSSA',
    'XCA',
    'About',
    'Fibottention',
    'FocusedLinearAttention',
    'LiSAttention',
    'NoMixing',
    'PatternCodeAttention',
    'SelfAttention',
    'VicinityAttention',
    'build_attention',
    'register_attention',
]
