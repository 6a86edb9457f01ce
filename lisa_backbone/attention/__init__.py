"""Attention operators: modules that map tokens on a 1-, 2- or 3-D grid to tokens on the same grid, torch only.

Every operator is built as ``Operator(dim, num_heads, **options)`` and called as ``operator(x, grid)`` with ``x`` of
shape (B, L, C) and ``grid`` a tuple of 1, 2 or 3 sizes whose product is L; it returns (B, L, C).
"""

from .afno import AFNO
from .average_pooling import AveragePooling
from .fibottention import Fibottention
from .focused_linear_attention import FocusedLinearAttention
from .global_filter import GlobalFilter
from .kernelized_rpe import KernelizedRPE
from .ladder_attention import LadderAttention
from .lisa import LiSAttention
from .lsla import LSLA
from .neighborhood_attention import NeighborhoodAttention
from .no_mixing import NoMixing
from .pale_attention import PaleAttention
from .pattern_code import PatternCodeAttention
from .posgu import PoSGU
from .registry import ATTENTION, About, build_attention, find_attention, register_attention
from .retention import Retention
from .self_attention import SelfAttention
from .shunted_attention import ShuntedAttention
from .soft import SOFT
from .synthesizer import Synthesizer
from .tssa import TSSA
from .urpe import URPE
from .vicinity_attention import VicinityAttention
from .wavelet_attention import WaveletAttention
from .window_attention import WindowAttention
from .xca import XCA

__all__ = [
    'AFNO',
    'ATTENTION',
    'LSLA',
    'SOFT',
    'TSSA',
    'URPE',
    'XCA',
    'About',
    'AveragePooling',
    'Fibottention',
    'FocusedLinearAttention',
    'GlobalFilter',
    'KernelizedRPE',
    'LadderAttention',
    'LiSAttention',
    'NeighborhoodAttention',
    'NoMixing',
    'PaleAttention',
    'PatternCodeAttention',
    'PoSGU',
    'Retention',
    'SelfAttention',
    'ShuntedAttention',
    'Synthesizer',
    'VicinityAttention',
    'WaveletAttention',
    'WindowAttention',
    'build_attention',
    'find_attention',
    'register_attention',
]
