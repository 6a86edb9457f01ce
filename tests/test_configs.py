"""Every config of the repository builds, resolves on this stack, and optimises as its recipe promises."""

import copy
import functools
import itertools
import re
from pathlib import Path

import pytest
import torch

from lisa_backbone import compat

compat.apply()
for framework in ('mmdet', 'mmseg', 'mmaction', 'mmpretrain'):
    pytest.importorskip(framework)
pytest.importorskip('mmcv')

from mmengine.optim import build_optim_wrapper  # noqa: E402

from lisa_backbone.backbone import LiSA  # noqa: E402
from lisa_backbone.config import RUNNER_KEYS, load_config, null_empty_pretrained, walk_dicts  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.preflight import build_model, check_channels  # noqa: E402

ROOT = Path(__file__).parents[1] / 'configs'
ARCHS = {'p': 'pico', 't': 'tiny', 's': 'small', 'b': 'base'}
IMAGE_BACKBONES = ('r50', 'swin-t', 'pvtv2-b2', 'convnext-t', 'timm')
VIEWS = ('8x8x1-30e_kinetics400', '16x4x1-30e_kinetics400', 'u16-30e_sthv2')

# Every config of the repository, without its suffix.
DETECTION = [
    f'{head}_lisa-{size}_fpn_{schedule}_coco'
    for head, schedule in (
        ('mask-rcnn', '1x'),
        ('mask-rcnn', 'amp-ms-crop-3x'),
        ('cascade-mask-rcnn', 'amp-ms-crop-3x'),
        ('retinanet', '1x'),
    )
    for size in 'tsb'
]
SEGMENTATION = [
    f'lisa-{size}_{head}_ade20k-512x512' for head in ('upernet_8xb2-160k', 'fpn_8xb2-80k') for size in 'tsb'
]
ACTION = [f'lisa-{size}_8xb8-amp-{views}-rgb' for views in VIEWS for size in 'tsb']
PRETRAINING = [f'lisa-{size}_16xb64_in1k' for size in 'tsb']
MINI = [
    'det/mask-rcnn_lisa-p_fpn_mini-coco',
    'seg/lisa-p_fpn_mini-ade20k-128x128',
    'action/lisa-p_8x2x1_mini-kinetics-rgb',
    'action/lisa-p_u8_mini-ssv2-rgb',
    'action/lisa-p_1x1x1_mini-ssv2-rgb',
    'action/lisa-p_u8-frame-by-frame_mini-ssv2-rgb',
    'pretrain/lisa-p_mini-imagenet',
]
COMPARISONS = {  # to the LiSA config from which they differ
    **{f'det/mask-rcnn_{name}_fpn_1x_coco': 'det/mask-rcnn_lisa-t_fpn_1x_coco' for name in IMAGE_BACKBONES},
    **{
        f'seg/{name}_upernet_8xb2-160k_ade20k-512x512': 'seg/lisa-t_upernet_8xb2-160k_ade20k-512x512'
        for name in IMAGE_BACKBONES
    },
    **{
        f'action/{name}_8xb8-amp-{views}-rgb': f'action/lisa-t_8xb8-amp-{views}-rgb'
        for name in ('swin-tiny', 'uniformer-small')
        for views in VIEWS[1:]
    },
}
PEERS = {  # of LiSA pico on the mini sets
    name.replace('lisa-p', peer): name
    for peer in ('swin-p', 'pvtv2-p', 'convnext-p', 'resnet-p')
    for name in MINI
    if '1x1x1' not in name and 'frame-by-frame' not in name
}
COMPARISONS |= PEERS
TSM = [f'action/tsm-r50_8xb8-amp-{views}-rgb' for views in (VIEWS[0], VIEWS[2])]
LISA = [
    *(f'det/{name}' for name in DETECTION),
    *(f'seg/{name}' for name in SEGMENTATION),
    *(f'action/{name}' for name in ACTION),
    *(f'pretrain/{name}' for name in PRETRAINING),
    *MINI,
]
ALL = [*LISA, *COMPARISONS, *TSM]


@functools.cache
def load(name):
    """A config, read once; not to be changed."""
    return load_config(ROOT / f'{name}.py')


def kinds(name):
    """Loaders that have a pipeline."""
    return [load(name)[f'{kind}_dataloader'].dataset.pipeline for kind in ('train', 'val', 'test')]


def step(pipeline, kind):
    """The one step of a type in a pipeline."""
    (found,) = [s for s in pipeline if s.type == kind]
    return found


def flat(node, path=''):
    """All leaves of a config by their dotted paths."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else None
    if children is None:
        return {path: node}
    return {key: leaf for name, child in children for key, leaf in flat(child, f'{path}.{name}').items()}


def test_the_list_of_configs():
    found = [str(path.relative_to(ROOT).with_suffix('')) for path in ROOT.rglob('*.py') if '_base_' not in path.parts]
    assert sorted(found) == sorted(ALL)
    assert len(ALL) == len(set(ALL)) == 73


@pytest.mark.parametrize('name', DETECTION)
def test_detection_config_says_what_its_name_says(name):
    cfg = load(f'det/{name}')
    head, _, _, schedule, _ = name.split('_')
    backbone = cfg.model.backbone
    assert (
        cfg.model.type == {'mask-rcnn': 'MaskRCNN', 'cascade-mask-rcnn': 'CascadeRCNN', 'retinanet': 'RetinaNet'}[head]
    )
    assert tuple(backbone.out_indices) == ((1, 2, 3) if head == 'retinanet' else (0, 1, 2, 3))
    assert list(cfg.model.neck.in_channels) == [dims(name)[i] for i in backbone.out_indices]
    assert cfg.train_dataloader.dataset.data_root == 'data/coco/'
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert cfg.train_dataloader.batch_size == 2  # on the field's 8 GPUs
    epochs = 36 if '3x' in schedule else 12
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler[1].milestones == ([27, 33] if '3x' in schedule else [8, 11])
    assert cfg.param_scheduler[1].end == epochs
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if 'amp' in schedule else 'OptimWrapper')
    assert ('RandomChoice' in cfg.train_dataloader.dataset.pipeline[3].type) == ('ms-crop' in schedule)
    assert cfg.optim_wrapper.optimizer == adamw(1e-4, 0.05)
    assert backbone.drop_path_rate == {'t': 0.2, 's': 0.2, 'b': 0.3}[size(name)]
    if 'mask' in head:
        assert cfg.val_evaluator.metric == ['bbox', 'segm']


def size(name):
    """The letter of the arch."""
    return re.search(r'lisa-(.)', name)[1]


def dims(name):
    """Widths of the maps of a config's backbone."""
    return list(LiSA.arch_zoo[ARCHS[size(name)]]['embed_dims'])


def adamw(lr, weight_decay):
    """Config of the optimizer."""
    return {'type': 'AdamW', 'lr': lr, 'betas': (0.9, 0.999), 'weight_decay': weight_decay}


@pytest.mark.parametrize('name', LISA)
def test_lisa_configs_have_one_place_for_weights(name):
    cfg = load(name)
    backbone = cfg.model.backbone
    assert backbone.type.removeprefix('mmpretrain.') == 'LiSA'
    assert backbone.arch == ARCHS[size(name)]
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': None, 'prefix': 'backbone.'}
    assert cfg.custom_imports.imports == ['lisa_backbone']
    assert cfg.randomness.seed == 0
    folder = name.split('/')[0]
    assert cfg.default_scope == {'det': 'mmdet', 'seg': 'mmseg', 'action': 'mmaction', 'pretrain': 'mmpretrain'}[folder]
    best = {'det': 'coco/bbox_mAP', 'seg': 'mIoU', 'action': 'acc/top1', 'pretrain': 'accuracy/top1'}[folder]
    assert cfg.default_hooks.checkpoint.save_best == best
    assert cfg.default_hooks.checkpoint.rule == 'greater'


@pytest.mark.parametrize('name', SEGMENTATION)
def test_segmentation_config_says_what_its_name_says(name):
    cfg = load(f'seg/{name}')
    model, upernet = cfg.model, 'upernet' in name
    iterations = 160_000 if upernet else 80_000
    assert model.decode_head.type == ('UPerHead' if upernet else 'FPNHead')
    assert model.decode_head.num_classes == 150
    assert list((model.decode_head if upernet else model.neck).in_channels) == dims(name)
    if upernet:
        assert (model.auxiliary_head.in_channels, model.auxiliary_head.num_classes) == (dims(name)[2], 150)
    assert model.backbone.drop_path_rate == (0.3 if upernet else 0.1)
    assert model.data_preprocessor.size == (512, 512)
    assert model.test_cfg == {'mode': 'whole', 'crop_size': (512, 512), 'stride': (341, 341)}
    train, val, test = kinds(f'seg/{name}')
    assert step(train, 'RandomCrop').crop_size == (512, 512)
    assert test == val
    assert [loader.dataset.data_root for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)] == [
        'data/ade/ADEChallengeData2016/'
    ] * 3
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert cfg.train_cfg.max_iters == iterations
    assert cfg.param_scheduler[-1].end == iterations
    assert cfg.param_scheduler[-1].power == (1.0 if upernet else 0.9)
    assert [s.end for s in cfg.param_scheduler[:-1]] == ([1500] if upernet else [])
    assert cfg.optim_wrapper.optimizer == (adamw(6e-5, 0.01) if upernet else adamw(1e-4, 1e-4))


@pytest.mark.parametrize('name', [f'seg/{SEGMENTATION[0]}', MINI[1]])
def test_segmentation_is_tested_at_several_scales(name):
    cfg = load(name)
    assert cfg.tta_model.type == 'SegTTAModel'
    scales, *others, _, _ = step(cfg.tta_pipeline, 'TestTimeAug').transforms
    if 'mini' in name:
        assert [s.scale for s in scales] == [(96, 96), (128, 128), (160, 160)]
        assert others == []  # no flip of digits
        return
    assert [s.scale[1] for s in scales] == [256, 384, 512, 640, 768, 896]
    assert [s.scale[0] for s in scales] == [4 * s.scale[1] for s in scales]  # so that the short side decides
    assert [flip.prob for flip in others[0]] == [0.0, 1.0]


@pytest.mark.parametrize('name', ACTION + [name.removeprefix('action/') for name in TSM])
def test_action_config_says_what_its_name_says(name):
    cfg = load(f'action/{name}')
    views = re.search(r'amp-(\w+)-30e', name)[1]
    uniform = views.startswith('u')
    frames = int(re.search(r'\d+', views)[0])
    sampler = 'UniformSample' if uniform else 'SampleFrames'
    pipelines = kinds(f'action/{name}')
    assert [step(p, sampler).clip_len for p in pipelines] == [frames] * 3
    assert [step(p, sampler).get('test_mode', False) for p in pipelines] == [False, True, True]
    if uniform:
        assert [step(p, sampler).get('num_clips', 1) for p in pipelines] == [1, 1, 1]
    else:
        assert [step(p, sampler).frame_interval for p in pipelines] == [int(views.split('x')[1])] * 3
        assert [step(p, sampler).num_clips for p in pipelines] == [1, 1, 4]
    assert step(pipelines[2], 'ThreeCrop').crop_size == 224
    assert step(pipelines[2], 'Resize').scale == (-1, 224)
    assert any('Flip' in s.type for s in pipelines[0]) != uniform
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == ('data/sthv2/' if uniform else 'data/kinetics400/')
    folders = ['videos'] * 3 if uniform else ['videos_train', 'videos_val', 'videos_val']
    loaders = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]
    assert [loader.dataset.data_prefix.video for loader in loaders] == folders
    stem = 'sthv2' if uniform else 'kinetics400'
    lists = [f'{stem}_{split}_list_videos.txt' for split in ('train', 'val', 'val')]
    assert [loader.dataset.ann_file for loader in loaders] == lists
    assert cfg.model.cls_head.num_classes == (174 if uniform else 400)
    assert cfg.model.cls_head.average_clips == 'prob'
    assert cfg.train_dataloader.batch_size == 8
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 64}
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.optimizer == adamw(1e-4, 0.05 if name.startswith('lisa-b') else 0.02)
    assert cfg.train_cfg.max_epochs == 30
    assert [s.end for s in cfg.param_scheduler] == [2.5, 30]
    if name.startswith('tsm'):
        assert [cfg.model[part].get('num_segments', 8) for part in ('backbone', 'cls_head')] == [frames, frames]
        return
    assert cfg.model.neck == {'type': 'LastMap'}
    assert cfg.model.backbone.out_indices == (3,)
    assert cfg.model.backbone.temporal_stride == frames // 8
    assert cfg.model.backbone.drop_path_rate == {'t': 0.1, 's': 0.2, 'b': 0.3}[size(name)]
    assert cfg.model.cls_head.in_channels == dims(name)[3]
    assert cfg.model.data_preprocessor.format_shape == step(pipelines[0], 'FormatShape').input_format == 'NCTHW'


@pytest.mark.parametrize('name', PRETRAINING)
def test_pretraining_config_follows_the_recipe(name):
    cfg = load(f'pretrain/{name}')
    train, val, _ = kinds(f'pretrain/{name}')
    augment = step(train, 'RandAugment')
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    assert step(train, 'RandomErasing').erase_prob == 0.25
    assert step(train, 'RandomResizedCrop').scale == step(val, 'CenterCrop').crop_size == 224
    assert cfg.model.train_cfg.augments == [{'type': 'Mixup', 'alpha': 0.8}, {'type': 'CutMix', 'alpha': 1.0}]
    assert (cfg.model.head.loss.type, cfg.model.head.loss.label_smooth_val) == ('LabelSmoothLoss', 0.1)
    assert (cfg.model.head.in_channels, cfg.model.head.num_classes) == (dims(name)[3], 1000)
    assert cfg.model.backbone.out_indices == (3,)
    assert cfg.model.backbone.drop_path_rate == {'t': 0.2, 's': 0.3, 'b': 0.5}[size(name)]
    assert next(hook for hook in cfg.custom_hooks if hook.type == 'EMAHook').momentum == 1e-4
    assert cfg.train_cfg.max_epochs == 300
    assert [cfg.param_scheduler[0].end, cfg.param_scheduler[1].begin] == [20, 20]
    assert cfg.train_dataloader.batch_size == 64
    assert cfg.auto_scale_lr.base_batch_size == 16 * 64
    assert cfg.train_dataloader.dataset.data_root == cfg.val_dataloader.dataset.data_root == 'data/imagenet/'
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert (loader.persistent_workers, loader.pin_memory) == (True, True)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)


@pytest.mark.parametrize('name', MINI)
def test_mini_configs_validate_once_and_never_flip(name):
    cfg = load(name)
    loop, pipelines = cfg.train_cfg, kinds(name)
    assert loop.val_interval == (loop.get('max_iters') or loop.max_epochs)
    batch = 8 if name.startswith(('det', 'seg')) else 16
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == batch
    rate = 2e-3 if name.startswith(('det', 'seg')) else 1.5e-3
    assert cfg.optim_wrapper.optimizer == {**adamw(rate, 0.05), 'fused': True}
    assert cfg.model.backbone.norm == 'BN'  # layer norm stays at chance several times longer
    assert not [node.type for p in pipelines for _, node in walk_dicts({'p': p}) if 'Flip' in str(node.get('type'))]
    root = {'det': 'mini_coco', 'seg': 'mini_ade20k', 'pretrain': 'mini_imagenet'}.get(name.split('/')[0])
    root = root or ('mini_kinetics' if 'kinetics' in name else 'mini_ssv2')
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    assert {loader.dataset.data_root for loader in loaders} == {f'data/{root}/'}
    classes = {len(loader.dataset.metainfo.classes) for loader in loaders}
    assert classes == {15 if 'ade20k' in name else 10}


def test_the_mini_video_configs_see_the_frames_they_name():
    samplers = {name: next(s for s in kinds(name)[0] if 'Sample' in s.type) for name in MINI if 'action' in name}
    assert {name.split('/')[1]: {k: v for k, v in s.items() if k != 'num_clips'} for name, s in samplers.items()} == {
        'lisa-p_8x2x1_mini-kinetics-rgb': {'type': 'SampleFrames', 'clip_len': 8, 'frame_interval': 2},
        'lisa-p_u8_mini-ssv2-rgb': {'type': 'UniformSample', 'clip_len': 8},
        'lisa-p_u8-frame-by-frame_mini-ssv2-rgb': {'type': 'UniformSample', 'clip_len': 8},
        'lisa-p_1x1x1_mini-ssv2-rgb': {'type': 'SampleFrames', 'clip_len': 1, 'frame_interval': 1},
    }
    video, frame = (load(f'action/lisa-p_{views}_mini-ssv2-rgb') for views in ('u8', '1x1x1'))
    shared = ('arch', 'out_indices', 'drop_path_rate')
    assert [video.model.backbone[k] for k in shared] == [frame.model.backbone[k] for k in shared]
    assert video.train_cfg == frame.train_cfg
    assert video.optim_wrapper == frame.optim_wrapper
    assert video.param_scheduler == frame.param_scheduler
    one_by_one = load('action/lisa-p_u8-frame-by-frame_mini-ssv2-rgb')
    assert (video.model.backbone.temporal_stride, one_by_one.model.backbone.temporal_stride) == (2, 1)
    one_by_one.model.backbone.temporal_stride = 2
    assert one_by_one.to_dict() == video.to_dict()


def test_frame_by_frame_nothing_but_the_operator_relates_frames():
    """Without one, the order of the frames makes no difference to the scores."""
    torch.manual_seed(0)
    path = ROOT / 'action' / 'lisa-p_u8-frame-by-frame_mini-ssv2-rgb.py'
    clip, changes = torch.randn(1, 1, 3, 8, 64, 64), {}
    for operator in ('NoMixing', 'LiSAttention', 'SelfAttention'):
        cfg = load_config(path, {'model.backbone.attention.type': operator})
        null_empty_pretrained(cfg)
        model = build_model(cfg.model, cfg.get('data_preprocessor')).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():  # the weights of time are zero at first
                if 'rpe' in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
            scores = [model(x, stage='head', mode='tensor') for x in (clip, clip.flip(3))]
        changes[operator] = (scores[0] - scores[1]).abs().max().item() / scores[0].abs().max().item()
    assert changes['NoMixing'] < 1e-5  # sums in another order
    assert min(changes['LiSAttention'], changes['SelfAttention']) > 1e-3


def test_palette_of_mini_ade20k_is_distinct():
    metainfo = load(MINI[1]).train_dataloader.dataset.metainfo
    assert metainfo.classes[:6] == ('gradient', 'noise', 'stripes', 'checks', 'cells', 'zero')
    assert len({tuple(colour) for colour in metainfo.palette}) == 15
    assert load(MINI[1]).model.decode_head.num_classes == 15


@pytest.mark.parametrize('name', [name for name in ALL if 'sthv2' in name or 'ssv2' in name])
def test_something_something_is_never_flipped(name):
    """Left and right are labels (mmaction2#590)."""
    types = [str(node.get('type')) for p in kinds(name) for _, node in walk_dicts({'p': p})]
    assert types
    assert not [kind for kind in types if 'Flip' in kind or 'Mirror' in kind]


SWIN_BIASES = 'optim_wrapper.paramwise_cfg.custom_keys.relative_position_bias_table'
BACKBONE_KEYS = re.compile(
    r'^\.(custom_imports\.|peer\.|weights\.|model\.(backbone|(neck|decode_head|auxiliary_head|cls_head|head)\.in_channels)(\.|$))'
)


@pytest.mark.parametrize('name', COMPARISONS)
def test_comparisons_differ_by_the_backbone_alone(name):
    one, other = flat(load(name).to_dict()), flat(load(COMPARISONS[name]).to_dict())
    different = {key for key in set(one) | set(other) if one.get(key, 'absent') != other.get(key, 'absent')}
    assert any(key.startswith('.model.backbone') for key in different)
    own = {f'.{SWIN_BIASES}.decay_mult'} if 'swin' in name else set()
    if 'swin-p' in name + COMPARISONS[name]:
        own |= {'.optim_wrapper.optimizer.lr'}  # a third of the rate of the others
    assert own <= different
    assert [key for key in different - own if not BACKBONE_KEYS.match(key)] == []
    backbone = load(name).model.backbone
    rate = load(COMPARISONS[name]).model.backbone.drop_path_rate
    assert backbone.get('drop_path_rate', rate) == rate
    assert (backbone.get('init_cfg') or {}).get('checkpoint') is None
    assert not backbone.get('pretrained')


@pytest.mark.parametrize('name', TSM)
def test_tsm_differs_by_the_model_and_the_layout_of_clips_alone(name):
    one, other = (flat(load(n).to_dict()) for n in (name, name.replace('tsm-r50', 'lisa-t')))
    different = {key for key in set(one) | set(other) if one.get(key, 'absent') != other.get(key, 'absent')}
    assert [
        key
        for key in different
        if not key.startswith(('.model.', '.preprocess_cfg.', '.weights.')) and 'input_format' not in key
    ] == []
    assert {one[key] for key in different if key.endswith('.input_format')} == {'NCHW'}


@pytest.mark.parametrize('name', [name for name in LISA if size(name) != 's'])  # s and b differ by their arch alone
def test_config_builds_and_decays_what_it_should(name):
    cfg = copy.deepcopy(load(name))
    null_empty_pretrained(cfg)
    with torch.device('meta'):  # shapes alone
        model = build_model(cfg.model, cfg.get('data_preprocessor'))
    wrapper_cfg = dict(cfg.optim_wrapper)
    if wrapper_cfg.get('type') == 'AmpOptimWrapper' and not torch.cuda.is_available():
        wrapper_cfg = {k: v for k, v in wrapper_cfg.items() if k != 'loss_scale'} | {'type': 'OptimWrapper'}
    groups = build_optim_wrapper(model, wrapper_cfg).optimizer.param_groups
    settings = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    parameters = dict(model.named_parameters())
    assert len(settings) == len(parameters)
    base, decay = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay
    for key, parameter in parameters.items():
        lr = (
            10 * base if 'amp' in name and key.startswith('cls_head.') else base
        )  # Video Swin's: a tenth but for the head
        decayed = parameter.ndim > 1 and '.rpe.' not in key
        assert settings[id(parameter)] == (pytest.approx(lr), decay if decayed else 0.0), key
    rpes = {key for key in parameters if '.rpe.' in key}
    assert any(parameters[key].ndim > 1 for key in rpes)  # which the rule for vectors alone would not spare
    assert len(rpes) >= sum(model.backbone.arch['depths'][: max(cfg.model.backbone.out_indices) + 1])


@pytest.mark.parametrize('name', [*COMPARISONS, *TSM])
def test_comparisons_build_and_their_channels_fit(name):
    cfg = copy.deepcopy(load(name))
    null_empty_pretrained(cfg)
    check_channels(build_model(cfg.model))


@pytest.mark.parametrize(
    ('size', 'rows', 'columns'),
    [((128, 200), [0], [0, 72]), ((213, 299), [0, 85], [0, 85, 170, 171]), ((96, 128), [0], [0])],
)
def test_segmentation_on_sliding_windows_is_the_mean_over_the_windows(size, rows, columns):
    """Windows of 128 x 128 every 85 pixels, the last at the border: each pixel has the mean of those that cover it."""
    torch.manual_seed(0)
    cfg = load_config(ROOT / 'seg' / 'lisa-p_fpn_mini-ade20k-128x128.py', {'model.test_cfg.mode': 'slide'})
    model = build_model(cfg.model, cfg.get('data_preprocessor')).eval()
    image = torch.randn(1, 3, *size)
    total, count = torch.zeros(1, 15, *size), torch.zeros(1, 1, *size)
    with torch.no_grad():
        found = model.inference(image, [dict(img_shape=size, ori_shape=size)])
        for y, x in itertools.product(rows, columns):
            window = (..., slice(y, y + 128), slice(x, x + 128))
            features = model.neck(model.backbone(image[window]))
            logits = model.decode_head(features)
            total[window] += torch.nn.functional.interpolate(
                logits, image[window].shape[2:], mode='bilinear', align_corners=False
            )
            count[window] += 1
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-5)


def test_recognizer2d_takes_the_mean_over_frames_of_the_image_backbone():
    torch.manual_seed(0)
    cfg = load_config(ROOT / 'action' / 'lisa-p_1x1x1_mini-ssv2-rgb.py')
    model = build_model(cfg.model, cfg.get('data_preprocessor')).eval()
    clips = torch.randn(2, 4, 3, 64, 48)
    with torch.no_grad():
        scores, _ = model.extract_feat(clips, stage='head', test_mode=True)
        frames = torch.stack([model.backbone(clips[:, t])[0].mean((2, 3)) for t in range(4)])
        assert (frames[0] - frames[1]).abs().max() > 1e-2
        torch.testing.assert_close(scores, model.cls_head.fc_cls(frames.mean(0)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', [name for name in PEERS if name.startswith('pretrain')])
def test_peers_are_of_the_size_of_lisa_pico(name):
    def parameters(one):
        cfg = copy.deepcopy(load(one))
        null_empty_pretrained(cfg)
        return sum(p.numel() for p in build_model(cfg.model, cfg.get('data_preprocessor')).backbone.parameters())

    assert parameters(name) == pytest.approx(parameters(PEERS[name]), rel=0.15)


def test_another_timm_model_is_told_which_widths_to_set():
    options = {'model.backbone.model_name': 'resnet18'}
    cfg = load_config(ROOT / 'seg' / 'timm_upernet_8xb2-160k_ade20k-512x512.py', options)
    null_empty_pretrained(cfg)
    with pytest.raises(UserError, match=r'set model\.decode_head\.in_channels=\[64,128,256,512\]'):
        check_channels(build_model(cfg.model))


def test_a_backbone_that_takes_more_than_an_image_is_not_about_channels():
    model = build_model(load('seg/lisa-p_fpn_mini-ade20k-128x128').model)
    model.backbone.forward = lambda image, mask: image  # as those of masked image modelling
    check_channels(model)


def test_runner_reads_the_keys_that_are_called_known():
    """Every top-level key of a finished config is one that mmengine reads, or a variable of a base file."""
    variables = {'data_root', 'dataset_type', 'backend_args', 'vis_backends', 'metainfo', 'width', 'norm_cfg'}
    variables |= {'train_pipeline', 'val_pipeline', 'test_pipeline', 'crop_size', 'img_ratios', 'optimizer', 'dataset'}
    variables |= {'backbone_norm_cfg', 'bgr_mean', 'bgr_std', 'preprocess_cfg', 'max_epochs', 'peer', 'weights'}
    unknown = {name: set(load(name)) - RUNNER_KEYS - variables for name in ALL}
    assert {name: keys for name, keys in unknown.items() if keys} == {}


@pytest.mark.parametrize('path', sorted(ROOT.rglob('*.py')), ids=lambda path: str(path.relative_to(ROOT)))
def test_config_is_short(path):
    limit = 60 if '_base_' in path.parts else 24
    assert len(path.read_text().splitlines()) <= limit
