"""A weight file is counted key by key as the framework loads it; what does not fit stops with the mend."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from lisa_backbone import compat

compat.apply()
mmengine = pytest.importorskip('mmengine')

from mmengine.model import BaseModule  # noqa: E402

from lisa_backbone.backbone import LiSA  # noqa: E402
from lisa_backbone.checkpoints import (  # noqa: E402
    check_checkpoint,
    check_load_from,
    check_pretrained,
    check_resumable,
    read_checkpoint,
)
from lisa_backbone.errors import UserError  # noqa: E402


class Detector(BaseModule):
    def __init__(self, init_cfg=None, classes=5, **kwargs):
        super().__init__()
        self.backbone = LiSA(arch='pico', init_cfg=init_cfg, **kwargs)
        self.neck = nn.BatchNorm2d(192)
        self.head = nn.Linear(192, classes)


def save(path, state, **more):
    torch.save({'state_dict': state, **more}, path)
    return str(path)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture
def weights():
    torch.manual_seed(1)
    return LiSA(arch='pico').state_dict()


def pretrained(path, prefix=None):
    return {'type': 'Pretrained', 'checkpoint': str(path), 'prefix': prefix}


class LoadsByItself(nn.Module):
    """Loads what its ``pretrained`` names by code of its own that passes over what does not fit, as mmaction2's do."""

    FILES: ClassVar[dict] = {}

    def __init__(self, pretrained):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1, bias=False))
        self.backbone.pretrained = pretrained
        self.backbone.init_weights = lambda: self.backbone.load_state_dict(self.FILES[pretrained], strict=False)


def test_backbone_that_loads_by_itself_is_counted():
    model = LoadsByItself('small')
    state = {key: torch.full_like(value, 2) for key, value in model.backbone.state_dict().items()}
    LoadsByItself.FILES = {'small': state, 'half': {'1.weight': state['1.weight']}}
    (report,) = check_pretrained(model)
    assert (report.source, report.target, report.filled, report.params_filled) == ('small', 'model.backbone', 3, 15)
    assert model.backbone[0].bias.eq(2).all()
    with pytest.raises(UserError, match=r'half fills 1 of the 3'):
        check_pretrained(LoadsByItself('half'))
    with pytest.raises(UserError, match=r"model\.backbone\.pretrained=large cannot be loaded \(KeyError: 'large'\)"):
        check_pretrained(LoadsByItself('large'))
    assert check_pretrained(LoadsByItself(None)) == []


@pytest.mark.parametrize('prefix', [None, 'backbone.', 'model.encoder.'])
def test_pretrained_that_fits(tmp_path, weights, prefix):
    extra = {'head.weight': torch.zeros(3)}
    path = save(tmp_path / 'w.pth', {**prefixed(weights, prefix or ''), **extra})
    model = Detector(pretrained(path, prefix))
    (report,) = check_pretrained(model)
    assert report.target == 'model.backbone'
    assert (report.filled, report.keys, report.share) == (len(weights), len(weights), 1.0)
    assert report.params == sum(p.numel() for p in model.backbone.parameters())
    assert report.unused == 1
    key = next(iter(weights))
    assert torch.equal(model.backbone.state_dict()[key], weights[key])


@pytest.mark.parametrize(
    ('theirs', 'ours', 'mend'),
    [
        ('backbone.', None, r"set model\.backbone\.init_cfg\.prefix='backbone\.'"),
        ('encoder.', None, r"prefix='encoder\.'"),
        ('model.', None, r"prefix='model\.'"),
        ('module.backbone.', 'backbone.', r"prefix='module\.backbone\.'"),
        ('', 'backbone.', r'prefix=None'),
    ],
)
def test_wrong_prefix_names_the_right_one(tmp_path, weights, theirs, ours, mend):
    path = save(tmp_path / 'w.pth', prefixed(weights, theirs))
    with pytest.raises(UserError, match=mend) as error:
        check_pretrained(Detector(pretrained(path, ours)))
    assert f'fills 0 of the {len(weights)} keys' in str(error.value)


def test_prefix_of_data_parallel_needs_nothing(tmp_path, weights):
    path = save(tmp_path / 'w.pth', prefixed(weights, 'module.'))  # mmengine strips it by itself
    assert check_pretrained(Detector(pretrained(path)))[0].share == 1


def test_other_arch_counts_keys_and_shapes(tmp_path, weights):
    other = LiSA(arch={**LiSA.arch_zoo['pico'], 'embed_dims': (32, 64, 128, 200), 'num_heads': (2, 4, 8, 10)})
    path = save(tmp_path / 'w.pth', other.state_dict())
    with pytest.raises(UserError, match=r'\d+ keys have another shape, such as \S+, \(\S.*\) in the file') as error:
        check_pretrained(Detector(pretrained(path)))
    share = float(str(error.value).rsplit('--min-fit ', 1)[1])
    assert 0.2 < share < 0.9
    (report,) = check_pretrained(Detector(pretrained(path)), min_fit=share)
    same = [k for k, v in other.state_dict().items() if weights[k].shape == v.shape]
    assert report.filled == len(same)
    assert len(report.wrong_shape) == len(weights) - len(same)
    assert report.share == pytest.approx(
        sum(weights[k].numel() for k in same) / sum(v.numel() for v in weights.values())
    )


def test_threshold_is_in_parameters(tmp_path, weights):
    largest = max(weights, key=lambda key: weights[key].numel())
    path = save(tmp_path / 'w.pth', {k: v for k, v in weights.items() if k != largest})
    share = 1 - weights[largest].numel() / sum(v.numel() for v in weights.values())
    (report,) = check_pretrained(Detector(pretrained(path)), min_fit=share - 1e-6)
    assert report.missing == [largest]
    with pytest.raises(UserError, match='1 are not in the file'):
        check_pretrained(Detector(pretrained(path)), min_fit=share + 1e-6)


def test_load_from_judges_the_backbone(tmp_path):
    state = Detector(classes=7).state_dict()
    reports = check_load_from(Detector(), save(tmp_path / 'w.pth', state))
    assert [report.target for report in reports] == ['model.backbone', 'model']
    assert reports[0].share == 1
    assert [entry[0] for entry in reports[1].wrong_shape] == ['head.weight', 'head.bias']


def test_load_from_with_a_bare_backbone(tmp_path, weights):
    with pytest.raises(UserError, match=r'weights of model\.backbone alone: give them as model\.backbone\.init_cfg'):
        check_load_from(Detector(), save(tmp_path / 'w.pth', weights))


def test_tested_checkpoint_must_fill_every_key(tmp_path):
    state = Detector().state_dict()
    assert check_checkpoint(Detector(), save(tmp_path / 'whole.pth', state)).fits(1.0)
    assert check_checkpoint(Detector(), save(tmp_path / 'ddp.pth', prefixed(state, 'module.'))).fits(1.0)
    path = save(tmp_path / 'part.pth', {k: v for k, v in state.items() if k != 'neck.running_mean'})
    with pytest.raises(UserError, match=r'1 are not in the file, such as neck\.running_mean'):
        check_checkpoint(Detector(), path)
    with pytest.raises(UserError, match=r'or allow it with --min-fit 0\.99$'):  # 1 asks for buffers too
        check_checkpoint(Detector(), path)
    assert check_checkpoint(Detector(), path, min_fit=0.99).missing == ['neck.running_mean']


def test_resuming_needs_progress_and_optimizer(tmp_path):
    state = Detector().state_dict()
    with pytest.raises(UserError, match='cannot be resumed; to start a new run from its weights'):
        check_resumable(Detector(), save(tmp_path / 'w.pth', state))
    part = save(tmp_path / 'part.pth', {k: v for k, v in state.items() if k != 'neck.running_mean'})
    with pytest.raises(UserError, match='1 are not in the file') as error:
        check_resumable(Detector(), part)
    assert '--min-fit' not in str(error.value)  # which cannot allow it
    odd = save(tmp_path / 'odd.pth', state, meta=None, optimizer={}, message_hub={})
    with pytest.raises(UserError, match='has no meta and cannot be resumed'):
        check_resumable(Detector(), odd)
    whole = save(tmp_path / 'r.pth', state, meta={'iter': 3, 'epoch': 1}, optimizer={}, message_hub={})
    assert check_resumable(Detector(), whole).share == 1


def test_a_config_that_resuming_would_run_is_refused(tmp_path):
    """A plain string, so that weights-only loading lets it pass; Runner.resume executes it."""
    meta = {'iter': 3, 'epoch': 1, 'config': f'open({str(tmp_path / "owned")!r}, "w")'}
    path = save(tmp_path / 'c.pth', Detector().state_dict(), meta=meta, optimizer={}, message_hub={})
    with pytest.raises(UserError, match=r'c\.pth was refused because resuming would run its meta\.config as code'):
        check_resumable(Detector(), path)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'', 'is empty'),
        (b'not a checkpoint', 'not a file that torch can read'),
        (None, 'is damaged'),
    ],
)
def test_unreadable_file(tmp_path, weights, content, said):
    path = tmp_path / 'w.pth'
    if content is None:
        save(path, weights)
        content = path.read_bytes()[:-2000]
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        check_checkpoint(Detector(), str(path))
    assert str(path) in str(error.value)


def test_file_without_weights(tmp_path):
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(UserError, match='holds no weights'):
        check_checkpoint(Detector(), str(tmp_path / 'list.pth'))
    torch.save({0: torch.zeros(1)}, tmp_path / 'numbers.pth')
    with pytest.raises(UserError, match=r'has tensors without names \(key 0\)'):
        check_checkpoint(Detector(), str(tmp_path / 'numbers.pth'))
    torch.save({'model': Detector().state_dict()}, tmp_path / 'model.pth')
    with pytest.raises(UserError, match="keeps its weights under 'model'"):
        check_checkpoint(Detector(), str(tmp_path / 'model.pth'))


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path, tmp_path / 'absent.pth'):
        with pytest.raises(UserError, match='is not a file'):
            read_checkpoint(path)


def test_conversion_inside_a_backbone_is_counted(tmp_path):
    """Backbones such as mmdet's Swin rename keys while they load; what counts is what arrives."""

    class Renaming(BaseModule):
        def __init__(self, init_cfg=None):
            super().__init__(init_cfg)
            self.new = nn.Linear(3, 3)

        def init_weights(self):
            state = torch.load(self.init_cfg['checkpoint'], weights_only=True)['model']
            self.load_state_dict({k.replace('old', 'new'): v for k, v in state.items()})

    model = nn.Module()
    torch.save({'model': {'old.weight': torch.ones(3, 3), 'old.bias': torch.ones(3)}}, tmp_path / 'w.pth')
    model.backbone = Renaming(pretrained(tmp_path / 'w.pth'))
    (report,) = check_pretrained(model)
    assert (report.filled, report.share, report.unused) == (2, 1.0, 0)
