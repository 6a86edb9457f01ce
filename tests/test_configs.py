"""Every config of the repository builds, resolves on this stack, and optimises as its recipe promises."""

from pathlib import Path

import pytest
import torch

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmdet')
pytest.importorskip('mmcv')

from mmengine.optim import build_optim_wrapper  # noqa: E402

from lisa_backbone.backbone import LiSA  # noqa: E402
from lisa_backbone.config import RUNNER_KEYS, load_config, null_empty_pretrained  # noqa: E402
from lisa_backbone.preflight import build_model, check_channels  # noqa: E402

ROOT = Path(__file__).parents[1] / 'configs'
ARCHS = {'p': 'pico', 't': 'tiny', 's': 'small', 'b': 'base'}
DROP_PATH = {'p': 0.0, 't': 0.2, 's': 0.3, 'b': 0.5}

DETECTION = sorted(
    [
        f'{head}_lisa-{size}_fpn_{schedule}_coco'
        for head, schedule in (
            ('mask-rcnn', '1x'),
            ('mask-rcnn', 'amp-ms-crop-3x'),
            ('cascade-mask-rcnn', 'amp-ms-crop-3x'),
            ('retinanet', '1x'),
        )
        for size in 'tsb'
    ]
    + ['mask-rcnn_lisa-p_fpn_mini-coco']
)


def test_the_list_of_configs():
    assert len(DETECTION) == 13
    assert sorted(path.stem for path in (ROOT / 'det').glob('*.py')) == DETECTION


@pytest.mark.parametrize('name', DETECTION)
def test_config_says_what_its_name_says(name):
    cfg = load_config(ROOT / 'det' / f'{name}.py')
    head, lisa, _, *schedule = name.split('_')
    size = lisa.removeprefix('lisa-')
    arch, dims = ARCHS[size], LiSA.arch_zoo[ARCHS[size]]['embed_dims']
    backbone = cfg.model.backbone
    assert (
        cfg.model.type == {'mask-rcnn': 'MaskRCNN', 'cascade-mask-rcnn': 'CascadeRCNN', 'retinanet': 'RetinaNet'}[head]
    )
    assert (backbone.type, backbone.arch) == ('LiSA', arch)
    assert list(cfg.model.neck.in_channels) == [dims[i] for i in backbone.out_indices]
    assert tuple(backbone.out_indices) == ((1, 2, 3) if head == 'retinanet' else (0, 1, 2, 3))
    assert backbone.drop_path_rate == DROP_PATH[size]
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': None, 'prefix': 'backbone.'}
    assert cfg.custom_imports.imports == ['lisa_backbone']
    assert cfg.randomness.seed == 0
    assert cfg.default_scope == 'mmdet'
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'
    if schedule[-1] == 'mini-coco':
        return
    assert cfg.train_dataloader.dataset.data_root == 'data/coco/'
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert cfg.train_dataloader.batch_size == 2  # on the field's 8 GPUs
    epochs = 36 if '3x' in name else 12
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler[1].milestones == ([27, 33] if '3x' in name else [8, 11])
    assert cfg.param_scheduler[1].end == epochs
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if 'amp' in name else 'OptimWrapper')
    assert ('RandomChoice' in cfg.train_dataloader.dataset.pipeline[3].type) == ('ms-crop' in name)
    assert cfg.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 1e-4, 'betas': (0.9, 0.999), 'weight_decay': 0.05}
    if 'mask' in head:
        assert cfg.val_evaluator.metric == ['bbox', 'segm']


@pytest.mark.parametrize('name', DETECTION)
def test_config_builds_and_decays_what_it_should(name):
    cfg = load_config(ROOT / 'det' / f'{name}.py')
    null_empty_pretrained(cfg)
    model = build_model(cfg.model)
    check_channels(model)
    wrapper_cfg = dict(cfg.optim_wrapper)
    if wrapper_cfg['type'] == 'AmpOptimWrapper' and not torch.cuda.is_available():
        wrapper_cfg = {k: v for k, v in wrapper_cfg.items() if k != 'loss_scale'} | {'type': 'OptimWrapper'}
    groups = build_optim_wrapper(model, wrapper_cfg).optimizer.param_groups
    settings = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    parameters = dict(model.named_parameters())
    assert len(settings) == len(parameters)
    lr = cfg.optim_wrapper.optimizer.lr
    decayed = {name for name, p in parameters.items() if settings[id(p)] == (lr, 0.05)}
    spared = {name for name, p in parameters.items() if settings[id(p)] == (lr, 0.0)}
    assert decayed | spared == set(parameters)
    assert decayed == {n for n, p in parameters.items() if p.ndim > 1 and '.rpe.' not in n}
    rpes = {n for n in parameters if '.rpe.' in n}
    assert rpes <= spared
    assert any(parameters[n].ndim > 1 for n in rpes)  # which the rule for vectors alone would not spare
    assert len(rpes) >= sum(model.backbone.arch['depths'][: max(cfg.model.backbone.out_indices) + 1])


def test_runner_reads_the_keys_that_are_called_known():
    """Every top-level key of a finished config is one that mmengine reads, or a variable of a base file."""
    cfg = load_config(ROOT / 'det' / 'mask-rcnn_lisa-t_fpn_1x_coco.py')
    variables = {'data_root', 'dataset_type', 'backend_args', 'train_pipeline', 'test_pipeline', 'vis_backends'}
    assert set(cfg) - RUNNER_KEYS == variables


@pytest.mark.parametrize('path', sorted(ROOT.rglob('*.py')), ids=lambda path: str(path.relative_to(ROOT)))
def test_config_is_short(path):
    limit = 60 if '_base_' in path.parts else 15
    assert len(path.read_text().splitlines()) <= limit
