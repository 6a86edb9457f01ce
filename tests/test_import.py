"""What can be imported with how little: the operators need torch alone, the backbone torch and mmengine."""

import subprocess
import sys

import pytest

# Hides packages from the imports of a fresh process, as if they were not installed.
HIDE = """
import importlib.util, sys
hidden = set({hidden!r})
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in hidden:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Finder())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in hidden else real(name, *rest)
"""
FRAMEWORKS = [
    'av',
    'cv2',
    'mmaction',
    'mmcv',
    'mmdet',
    'mmpretrain',
    'mmseg',
    'pycocotools',
    'scipy',
    'sklearn',
    'tqdm',
]
OPERATOR = """
import torch
from lisa_backbone.attention import LiSAttention
print(tuple(LiSAttention(8, 2)(torch.zeros(1, 15, 8), (3, 5)).shape))
"""
BACKBONE = """
import torch, lisa_backbone
from mmengine.registry import MODELS
print(tuple(MODELS.build(dict(type='LiSA', arch='pico'))(torch.zeros(1, 3, 32, 32))[0].shape))
"""


@pytest.mark.parametrize(
    ('hidden', 'code', 'printed'),
    [([*FRAMEWORKS, 'mmengine'], OPERATOR, '(1, 15, 8)'), (FRAMEWORKS, BACKBONE, '(1, 32, 8, 8)')],
    ids=['operator', 'backbone'],
)
def test_importable_without(hidden, code, printed):
    if code is BACKBONE:
        pytest.importorskip('mmengine')
    command = [sys.executable, '-c', HIDE.format(hidden=hidden) + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == printed
