"""Contracts of the backbone, over every arch of its table."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')

from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from lisa_backbone.attention import ATTENTION
from lisa_backbone.attention.rpe import RPES, ContinuousRPE, SpectrumRPE, TableRPE
from lisa_backbone.backbone import DropPath, LiSA
from lisa_backbone.checkpoints import check_pretrained
from lisa_backbone.complexity import count_macs, count_parameters
from lisa_backbone.errors import UserError

ARCHS = list(LiSA.arch_zoo)
# Parameters and MACs of Swin-T, -S and -B at 224 x 224 (Liu et al., 2021, Table 1).
SWIN_CLASS = {'tiny': (28e6, 4.5e9), 'small': (50e6, 8.7e9), 'base': (88e6, 15.4e9)}
SMALL = dict(embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
# Operators with a form for videos.
INFLATED = [name for name, operator in ATTENTION.items() if operator.about.inflates]


def build(arch, seed=0, **options):
    torch.manual_seed(seed)
    return MODELS.build(dict(type='LiSA', arch=arch, **options))


def images(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def clip(frames, height, width, batch=1):
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(0))


def give_weight_to_time(model):
    """Have the RPEs depend on the temporal offset, as training does."""
    for module in model.modules():
        if isinstance(module, ContinuousRPE):
            nn.init.normal_(module.hidden.weight[:, 0], std=0.5)
        elif isinstance(module, TableRPE | SpectrumRPE):
            nn.init.normal_(module.time, std=0.5)
    return model


def strided(size):
    """Sizes of the four maps: each 3 x 3 convolution of stride 2 and padding 1 rounds up."""
    sizes = []
    for _ in range(5):
        size = (size + 1) // 2
        sizes.append(size)
    return sizes[1:]


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize(('height', 'width'), [(65, 97), (1, 1), (64, 31)])
def test_any_input_size(arch, height, width):
    model = build(arch).eval()
    with torch.no_grad():
        maps = model(images(height, width))
    expected = list(zip(model.embed_dims, strided(height), strided(width), strict=True))
    assert [tuple(m.shape[1:]) for m in maps] == expected
    for m in maps:
        assert m.is_contiguous()
        assert m.isfinite().all()
        # Each map comes out of a LayerNorm over its channels, whose scale is still one.
        torch.testing.assert_close(m.mean(1), torch.zeros_like(m[:, 0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize('arch', ARCHS)
def test_every_parameter_gets_a_gradient(arch):
    model = build(arch, layer_scale_init_value=1.0).train()
    sum(m.square().mean() * (i + 1) for i, m in enumerate(model(images(64, 96)))).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent
    # A LayerNorm's output has a fixed mean square, so the loss is flat in a few directions; most must not be.
    zero = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert not zero


@pytest.mark.parametrize('out_indices', [(0,), (1,), (3,), (2, 0), (0, 1, 2, 3)])
def test_no_unused_parameter_for_any_out_indices(out_indices):
    model = build(SMALL, out_indices=out_indices)
    maps = model(images(65, 64))
    sum(m.sum() for m in maps).backward()
    assert [m.shape[1] for m in maps] == [SMALL['embed_dims'][i] for i in out_indices]
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    full = build(SMALL)
    missing, unexpected = model.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    torch.testing.assert_close(model(images(65, 64)), tuple(full(images(65, 64))[i] for i in out_indices))
    assert all(key.startswith('stages.') for key in unexpected)


@pytest.mark.parametrize('arch', ARCHS)
def test_checkpointed_equals_plain(arch):
    results = []
    for with_cp in (False, True):
        model = build(arch, with_cp=with_cp, drop_path_rate=0.3).train()
        torch.manual_seed(1)
        maps = model(images(65, 64, batch=2))
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item() + 1e-8)


@pytest.mark.parametrize('arch', ARCHS)
def test_state_dict_round_trip_and_seed(arch, tmp_path):
    model = build(arch).eval()
    x = images(64, 65)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(build(arch).eval()(x), expected, rtol=0, atol=0)
        torch.save(model.state_dict(), tmp_path / 'weights.pth')
        other = build(arch, seed=1).eval()
        assert not torch.equal(other(x)[0], expected[0])
        other.load_state_dict(torch.load(tmp_path / 'weights.pth', weights_only=True))
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)


def test_init_cfg_loads_weights_with_a_prefix(tmp_path):
    source = build(SMALL, seed=3)
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in source.state_dict().items()}}, tmp_path / 'detector.pth')
    model = build(
        SMALL, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'detector.pth'), prefix='backbone.')
    )
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3, 4])
def test_frozen_stages_keep_their_weights_and_their_mode(frozen_stages):
    model = build(SMALL, frozen_stages=frozen_stages).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad] or [torch.zeros(1)], lr=0.1)
    if frozen_stages < 4:
        torch.manual_seed(1)
        sum((m * torch.randn_like(m)).sum() for m in model(images(64, 64))).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        stage = int(name.split('.')[1])
        frozen = stage < frozen_stages or (frozen_stages == 0 and name.startswith('stages.0.embed'))
        assert torch.equal(value, before[name]) == frozen, name
    for i, stage in enumerate(model.stages):
        assert stage.training == (i >= max(frozen_stages, 0))
    assert model.stages[0].embed.training == (frozen_stages < 0)


def test_norm_eval_holds_the_statistics_of_batch_norms():
    for norm_eval in (False, True):
        model = build(SMALL, norm='BN', norm_eval=norm_eval).train()
        before = model.stages[0].embed[1].running_mean.clone()
        model(images(64, 64, batch=2))
        assert torch.equal(model.stages[0].embed[1].running_mean, before) == norm_eval
        assert model.stages[0].blocks.training


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize(('temporal_stride', 'frames'), [(1, 2), (2, 3)])
def test_videos_of_any_size(arch, temporal_stride, frames):
    model = give_weight_to_time(build(arch, temporal_stride=temporal_stride, layer_scale_init_value=1.0)).train()
    maps = model(clip(frames, 33, 47))
    expected = list(zip(model.embed_dims, strided(33), strided(47), strict=True))
    assert [tuple(m.shape[1:]) for m in maps] == [(width, 2, *size) for width, *size in expected]
    assert all(m.is_contiguous() and m.isfinite().all() for m in maps)
    sum(m.square().mean() * (i + 1) for i, m in enumerate(maps)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_convolutions_see_one_frame_each():
    """Without attention every frame of a video is the image model's."""
    model = build(SMALL, attention='NoMixing').eval()
    x = clip(3, 33, 31, batch=2)
    for stage, maps in enumerate(zip(model(x), *(model(x[:, :, t]) for t in range(3)), strict=True)):
        torch.testing.assert_close(maps[0], torch.stack(maps[1:], dim=2), msg=lambda m, s=stage: f'stage {s}: {m}')


@pytest.mark.parametrize('frames', [4, 5])
def test_stem_with_temporal_stride_is_a_strided_3d_convolution(frames):
    model = build(SMALL, temporal_stride=2)
    convolution = model.stages[0].embed[0]
    x = clip(frames, 9, 8)
    padded = x if frames % 2 == 0 else torch.cat([x, x[:, :, -1:]], dim=2)
    expected = nn.functional.conv3d(
        padded,
        convolution.weight.unflatten(1, (3, 2)),
        convolution.bias,
        stride=(2, 2, 2),
        padding=(0, 1, 1),
    )
    found = []
    convolution.register_forward_hook(lambda module, given, out: found.append(out))
    model(x)
    torch.testing.assert_close(found[0].unflatten(0, (1, -1)).transpose(1, 2), expected)


@pytest.mark.parametrize(('temporal_stride', 'frames'), [(1, 3), (2, 4), (2, 5), (3, 4)])
@pytest.mark.parametrize(
    'attention', [*INFLATED, *(dict(type='LiSAttention', form='padded', rpe=rpe) for rpe in RPES)], ids=str
)
def test_inflated_model_treats_a_still_clip_as_the_image(attention, temporal_stride, frames):
    image_model = build(SMALL, attention=attention, layer_scale_init_value=1.0).double().eval()
    video_model = build(
        SMALL, seed=1, attention=attention, layer_scale_init_value=1.0, temporal_stride=temporal_stride
    ).double()
    video_model.load_state_dict(image_model.state_dict())
    image = images(33, 47).double()
    expected = image_model(image)
    still = image.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    for map_, wanted in zip(video_model.eval()(still), expected, strict=True):
        # Equal but for the order of sums, in float64.
        torch.testing.assert_close(map_, wanted.unsqueeze(2).expand_as(map_), rtol=1e-9, atol=1e-9)


def test_video_tokens_attend_to_other_frames():
    model = give_weight_to_time(build(SMALL)).eval()
    x = clip(4, 32, 32)
    changed = x.clone()
    changed[:, :, 3] += 1
    before, after = model(x)[0], model(changed)[0]
    assert (after - before)[:, :, 0].abs().max() > 1e-4


@pytest.mark.parametrize(
    'attention',
    [*(dict(type=name, rpe=rpe) for name in ('LiSAttention', 'SelfAttention') for rpe in RPES), 'LadderAttention'],
    ids=str,
)
def test_order_of_frames_matters_once_time_has_weight(attention):
    """The mean over time of the features tells a clip from its reverse, which no model of single frames does."""
    x = clip(4, 32, 32)
    fresh, trained = (build(SMALL, attention=attention).eval() for _ in range(2))
    give_weight_to_time(trained)
    means = [[model(v)[3].mean(2) for v in (x, x.flip(2))] for model in (fresh, trained)]
    torch.testing.assert_close(*means[0], rtol=1e-4, atol=1e-5)
    assert (means[1][0] - means[1][1]).abs().max() > 1e-3


def test_image_weights_load_into_a_video_model_through_init_cfg(tmp_path):
    source = build(SMALL, seed=3)
    file = tmp_path / 'classifier.pth'
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in source.state_dict().items()}}, file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file), prefix='backbone.')
    model = build(SMALL, temporal_stride=2, init_cfg=init_cfg)
    (report,) = check_pretrained(model)
    assert (report.filled, report.share, report.wrong_shape) == (report.keys, 1.0, [])
    ours, theirs = model.state_dict(), source.state_dict()
    stem = 'stages.0.embed.0.weight'
    for key in theirs:
        if key != stem:
            assert torch.equal(ours[key], theirs[key]), key
    torch.testing.assert_close(ours[stem].unflatten(1, (3, 2)).sum(2), theirs[stem])
    again = build(SMALL, temporal_stride=2)
    again.load_state_dict(ours)  # a video model's own weights are taken as they are
    assert torch.equal(again.state_dict()[stem], ours[stem])


def test_checkpointed_video_equals_plain():
    results = []
    for with_cp in (False, True):
        model = give_weight_to_time(build(SMALL, with_cp=with_cp, temporal_stride=2)).train()
        maps = model(clip(4, 33, 31))
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters())])
        torch.manual_seed(0)
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item() + 1e-8)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('arch', ARCHS)
def test_autocast_is_finite_and_near_full_precision(arch, dtype):
    model = build(arch).train()
    x = images(65, 97)
    with torch.autocast('cpu', dtype):
        maps = model(x)
        loss = sum(m.float().square().mean() for m in maps)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        for half, full in zip(maps, model(x), strict=True):
            # Some tens of roundings of 2^-8 or 2^-11 in a row; measured as a mean, on maps of unit variance.
            assert (half.float() - full).abs().mean() < {torch.bfloat16: 5e-2, torch.float16: 1e-2}[dtype]


@pytest.mark.parametrize(
    ('arch', 'out_indices', 'backend'),
    [('pico', (0, 1), 'inductor'), *((arch, (0, 1, 2, 3), 'eager') for arch in ARCHS)],
)
def test_compiled_equals_eager(arch, out_indices, backend):
    """Tracing and code generation take minutes for all blocks of the deep archs, and for all stages of any."""
    model = build({**LiSA.arch_zoo[arch], 'depths': (1, 1, 2, 1)}, out_indices=out_indices).eval()
    x = images(33, 64)  # 9 x 16 positions in the first stage, by FFTs, and 5 x 8 in the second, by matrices
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize('arch', SWIN_CLASS)
def test_size_class_of_swin(arch):
    with torch.device('meta'):
        model = build(arch)
    parameters, macs = SWIN_CLASS[arch]
    assert count_parameters(model) == pytest.approx(parameters, rel=0.1)
    assert count_macs(model, (1, 3, 224, 224)) == pytest.approx(macs, rel=0.1)


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmaction', 'mmpretrain'])
def test_built_from_the_root_registry_in_every_scope(scope):
    child = scope if scope == 'mmengine' else None
    with DefaultScope.overwrite_default_scope(child):
        assert isinstance(MODELS.build(dict(type='LiSA', arch=SMALL)), LiSA)
    if scope != 'mmengine':
        registry = pytest.importorskip(f'{scope}.registry', exc_type=Exception).MODELS
        with DefaultScope.overwrite_default_scope(scope):
            assert isinstance(registry.build(dict(type='LiSA', arch=SMALL)), LiSA)


def test_no_weight_decay_on_norms_biases_rpes_and_scales():
    model = build(SMALL, layer_scale_init_value=1.0)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            paramwise_cfg=dict(
                norm_decay_mult=0.0,
                bias_decay_mult=0.0,
                custom_keys={'.rpe.': dict(decay_mult=0.0), '.layer_scale': dict(decay_mult=0.0)},
            ),
        ),
    )
    decay = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        exempt = id(parameter) in norms or name.endswith('.bias') or '.rpe.' in name or '.layer_scale' in name
        assert decay[id(parameter)] == (0.0 if exempt else 0.05), name


@pytest.mark.parametrize('name', ATTENTION)
def test_every_operator_fits_in(name):
    model = build(SMALL, attention=name)
    sum(m.square().sum() for m in model(images(33, 47))).backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]


def test_operators_may_differ_by_stage():
    circular, padded = dict(type='LiSAttention'), dict(type='LiSAttention', form='padded')
    model = build(SMALL, attention=[circular, circular, padded, padded])
    assert [s.blocks[0].attention.form for s in model.stages] == ['circular', 'circular', 'padded', 'padded']


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    y = DropPath(0.25)(torch.ones(20_000, 3))
    assert sorted(y.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (y[:, :1] == y).all()
    # The standard deviation of the mean is sqrt(1/3 / 20000) = 0.004.
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    rates = [b.drop_path.rate for s in build(SMALL, drop_path_rate=0.4).stages for b in s.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(arch='tinny'), "arch 'tinny' is unknown .*did you mean 'tiny'.*pico, tiny, small, base"),
        (dict(arch=dict(embed_dims=(8, 16, 24, 32))), 'depths'),
        (dict(arch=dict(SMALL, depths=(1, 1, 1))), r"arch\['depths'\] holds 3"),
        (dict(arch=SMALL, out_indices=(4,)), 'out_indices'),
        (dict(arch=SMALL, out_indices=()), 'out_indices'),
        (dict(arch=SMALL, frozen_stages=5), 'frozen_stages=5'),
        (dict(arch=SMALL, norm='GN'), "norm 'GN'"),
        (dict(arch=SMALL, temporal_stride=0), 'temporal_stride=0'),
        (dict(arch=SMALL, attention=['NoMixing'] * 3), 'sequence of four'),
        (dict(arch=SMALL, drop_path_rate=1), 'drop_path_rate=1 must be at least 0 and below 1'),
    ],
)
def test_what_cannot_be_built_is_told(options, words):
    with pytest.raises(UserError, match=words):
        LiSA(**options)


def test_wrong_channels_are_told():
    with pytest.raises(UserError, match=r'\(N, 3, H, W\) or .* and got \(1, 4, 32, 32\); set in_channels'):
        build(SMALL)(torch.zeros(1, 4, 32, 32))
    with pytest.raises(UserError, match=r'\(N, 3, T, H, W\) and got \(1, 8, 3, 32, 32\); set in_channels'):
        build(SMALL)(torch.zeros(1, 8, 3, 32, 32))


def test_images_are_refused_by_a_model_with_temporal_stride():
    with pytest.raises(UserError, match=r'temporal_stride=2 takes videos .*set temporal_stride=1'):
        build(SMALL, temporal_stride=2)(torch.zeros(1, 3, 32, 32))
