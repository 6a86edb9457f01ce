"""The parts of a training step, by a clock that only the parts themselves move."""

import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lisa_backbone import compat

compat.apply()

from mmengine.logging import MMLogger  # noqa: E402

from lisa_backbone import step_profile  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.runner import RunOptions  # noqa: E402
from lisa_backbone.step_profile import profile_step, table  # noqa: E402

MODULE = """
import torch
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIMIZERS

clock = [0.0]


def spend(seconds):
    clock[0] += seconds


class Foreign:
    def __call__(self, index):
        spend(1)
        return index


class Own(Foreign):
    __module__ = 'lisa_backbone.data.transforms'

    def __call__(self, index):
        spend(0.5)
        return index


@DATASETS.register_module()
class SlowSet(torch.utils.data.Dataset):
    metainfo = {}

    def __init__(self):
        self.pipeline = Compose([])
        self.pipeline.transforms = [Foreign(), Own()]

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {'inputs': torch.full((3,), float(self.pipeline(index) + 1))}


@MODELS.register_module()
class SlowPreprocessor(BaseDataPreprocessor):
    def forward(self, data, training=False):
        spend(4)
        return super().forward(data, training)


class SlowBackbone(torch.nn.Linear):
    def forward(self, x):
        spend(5)
        return super().forward(x)


@MODELS.register_module()
class SlowModel(BaseModel):
    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.backbone = SlowBackbone(3, 2)

    def forward(self, inputs, mode='tensor'):
        x = self.backbone(torch.stack(list(inputs)))
        spend(7)
        x.register_hook(lambda gradient: spend(11))
        return {'loss': x.square().mean()}


@OPTIMIZERS.register_module()
class SlowSGD(torch.optim.SGD):
    def step(self, *args, **kwargs):
        spend(13)
        return super().step(*args, **kwargs)


@HOOKS.register_module()
class SlowHook(Hook):
    def after_train_iter(self, *args, **kwargs):
        spend(17)
"""
CONFIG = """
custom_imports = dict(imports=['slow_parts'])
default_scope = 'mmengine'
model = dict(type='SlowModel', data_preprocessor=dict(type='SlowPreprocessor'))
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='SlowSet'),
)
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SlowSGD', lr=1e-3))
custom_hooks = [dict(type='SlowHook')]
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / 'slow_parts.py').write_text(textwrap.dedent(MODULE))
    (tmp_path / 'config.py').write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def now():
        return sys.modules['slow_parts'].clock[0]

    monkeypatch.setattr(step_profile, 'time', SimpleNamespace(perf_counter=now, process_time=now))
    return 'config.py'


def test_each_part_takes_what_it_spends(config, tmp_path):
    row = profile_step(RunOptions(config), iterations=4, warmup=2, samples=3)
    expected = {
        'data': 3, 'preprocessing': 4, 'backbone': 5, 'neck and heads': 7, 'backward': 11, 'optimizer': 13, 'hooks': 17,
        'rest': 0, 'loading': 3, 'own transforms': 1,
    }  # fmt: skip
    assert {part: float(row[f'{part} ms']) for part in expected} == {k: 1000 * v for k, v in expected.items()}
    assert float(row['ms']) == 60_000
    assert (row['batch'], row['iterations']) == (2, 4)
    assert row['options'] == ''
    assert '| config.py key=1 | 2 |' in table([{**row, 'options': 'key=1'}])
    files = [handler for handler in MMLogger.get_current_instance().handlers if hasattr(handler, 'baseFilename')]
    assert all(Path(handler.baseFilename).exists() for handler in files)  # or what is logged next fails
    assert '| config.py | 2 | 60000 | 5.0 % | 6.7 % | 8.3 % | 11.7 % | 18.3 % | 21.7 % | 28.3 % | 0.0 % |' in table(
        [row]
    )
    assert {path.name for path in tmp_path.iterdir()} <= {
        'slow_parts.py',
        'config.py',
        '__pycache__',
    }  # nothing is kept

    with pytest.raises(
        UserError, match=r'config\.py trains for 10 iterations and 12 were asked for; lower --iterations'
    ):
        profile_step(RunOptions(config), iterations=10, warmup=2)
    with pytest.raises(UserError, match='--launcher pytorch: the parts of a step are measured in one process'):
        profile_step(RunOptions(config, launcher='pytorch'))
    with pytest.raises(UserError, match='--iterations 0 and --warmup 2 must be at least 1'):
        profile_step(RunOptions(config), iterations=0, warmup=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason='with a GPU it trains in mixed precision')
def test_mixed_precision_is_taken_out_without_a_gpu(config):
    options = {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic'}
    row = profile_step(RunOptions(config, cfg_options=options), iterations=1, warmup=1, samples=1)
    assert row['options'] == 'optim_wrapper.type=OptimWrapper optim_wrapper.loss_scale=dynamic'
