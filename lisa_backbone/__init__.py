"""LiSA: a log-linear, structure-aware attention backbone with downstream benchmarks.

The operators in :mod:`lisa_backbone.attention` need torch alone. The backbone and what it needs for clips are
registered in mmengine's root registry where mmengine is installed.
"""

from importlib.util import find_spec

__version__ = '0.1.0'
__all__ = ['__version__']

if find_spec('mmengine') is not None:
    from .backbone import LiSA
    from .data.transforms import FetchFrames, OpenVideo
    from .early_fusion import EarlyFusion
    from .necks import LastMap

    __all__ += ['EarlyFusion', 'FetchFrames', 'LastMap', 'LiSA', 'OpenVideo']
