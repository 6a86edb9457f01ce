"""Frames as channels: a still clip gives the maps of its image, with the image's weights, for every peer."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from lisa_backbone import compat

compat.apply()
for framework in ('mmdet', 'mmaction', 'mmpretrain'):
    pytest.importorskip(framework)
pytest.importorskip('mmcv')

from mmengine.registry import MODELS  # noqa: E402

from lisa_backbone.checkpoints import check_pretrained  # noqa: E402
from lisa_backbone.config import load_config, null_empty_pretrained  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.preflight import _covers, build_model  # noqa: E402

CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.mark.parametrize('peer', ['swin-p', 'pvtv2-p', 'convnext-p', 'resnet-p'])
def test_weights_of_images_inflate(tmp_path, peer):
    """Saved as a classifier saves them, put in by the one line for weights, counted, and right on a still clip."""
    torch.manual_seed(0)
    cfg = load_config(CONFIGS / 'pretrain' / f'{peer}_mini-imagenet.py')
    null_empty_pretrained(cfg)
    images = build_model(cfg.model, cfg.get('data_preprocessor'))
    for parameter in images.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save({'state_dict': images.state_dict()}, tmp_path / 'images.pth')
    path = 'model.backbone.init_cfg.checkpoint'
    cfg = load_config(CONFIGS / 'action' / f'{peer}_u8_mini-ssv2-rgb.py', {path: str(tmp_path / 'images.pth')})
    clips = build_model(cfg.model)
    (report,) = check_pretrained(clips)
    assert report.target == 'model.backbone.backbone'
    assert (report.filled, report.missing, report.wrong_shape) == (report.keys, [], [])
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    still = x.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    for model in (images.backbone, clips.backbone):
        model.double().eval()
    with torch.no_grad():
        of_image, of_clip = images.backbone(x), clips.backbone(still)
    assert len(of_clip) == len(of_image)
    for one, other in zip(of_clip, of_image, strict=True):
        # the sum over frames is in another order: some units of the last digit, which deep layers amplify
        torch.testing.assert_close(one.squeeze(2), other, rtol=1e-8, atol=1e-8)


def test_frames_are_told_apart():
    model = MODELS.build({'type': 'EarlyFusion', 'frames': 2, 'backbone': {'type': 'LiSA', 'arch': 'pico'}}).eval()
    clip = torch.randn(1, 3, 2, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(clip)[-1], model(clip.flip(2))[-1])


def test_another_number_of_frames_is_told():
    model = MODELS.build({'type': 'EarlyFusion', 'frames': 2, 'backbone': {'type': 'LiSA', 'arch': 'pico'}})
    with pytest.raises(UserError, match=r'clips \(N, 3, 2, H, W\) and got \(1, 3, 4, 32, 32\); set frames to'):
        model(torch.randn(1, 3, 4, 32, 32))
    state = copy.deepcopy(model.state_dict())
    model.load_state_dict(state)  # its own weights are taken as they are
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_weights_of_the_wrapped_backbone_are_those_of_the_backbone():
    """Else a training would be told to start at random beside the line that says what was loaded."""
    model = nn.Module()
    model.backbone, model.backbone.backbone = nn.Module(), nn.Linear(30, 30)
    model.backbone.stem = nn.Linear(3, 3)
    assert [_covers(model, f'model.backbone{end}') for end in ('', '.backbone', '.stem')] == [True, True, False]
    assert _covers(model, 'model')
    assert not _covers(model, 'model.neck')


def test_a_wrong_prefix_names_the_key_of_the_wrapper(tmp_path):
    """The key of the wrapped backbone would have no effect: its wrapper hands it its own ``init_cfg``."""
    lisa = {'type': 'LiSA', 'arch': 'pico'}
    state = {f'backbone.{key}': value for key, value in MODELS.build(lisa).state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'images.pth')
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'images.pth')}
    model = nn.Module()
    model.backbone = MODELS.build({'type': 'EarlyFusion', 'frames': 2, 'backbone': lisa, 'init_cfg': init_cfg})
    with pytest.raises(UserError, match=r"so set model\.backbone\.init_cfg\.prefix='backbone\.'"):
        check_pretrained(model)
