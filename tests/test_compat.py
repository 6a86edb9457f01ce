"""Workarounds against the installed frameworks, and checkpoints that carry a payload."""

import argparse
import os
import pickle
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lisa_backbone import compat
from lisa_backbone.errors import UserError

pytest.importorskip('mmengine')

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parent.parent
ONEDL = 'onedl' in (compat.metadata.distribution('mmcv' if compat._distributed('mmcv') else 'onedl-mmcv').name)


@pytest.fixture(autouse=True)
def _applied():
    compat.apply()


def run_python(code, *, path=None, env=None, cwd=None):
    """Run code in a fresh interpreter, with a folder of modules that come before the installed ones."""
    variables = {**os.environ, **(env or {})}
    variables.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
    if path:
        variables['PYTHONPATH'] = str(path)
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=variables,
        cwd=cwd,
    )


HIDE = """
    import sys
    from importlib.machinery import PathFinder

    class Hiding:
        find_distributions = staticmethod(PathFinder.find_distributions)

        def find_spec(self, name, path=None, target=None):
            return None if name.split('.')[0] in {hidden} else PathFinder.find_spec(name, path, target)

    sys.meta_path = [Hiding() if finder is PathFinder else finder for finder in sys.meta_path]
"""


def hiding(*modules):
    """Return code after which modules cannot be found."""
    return textwrap.dedent(HIDE.format(hidden=modules))


def patch_named(text):
    return next(patch for patch in compat.apply() if text in patch.name)


# --------------------------------------------------------------------------------------------------------- checkpoints


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Evaluated(Payload):
    def __reduce__(self):
        return eval, (f'__import__("os").system({self.command!r})',)


class ThroughGetattr(Payload):
    """Reaches for the module of an allowed class, which an allow-list with the real getattr would hand out."""

    def __reduce__(self):
        return getattr, (HistoryBuffer.__init__, '__globals__')


class Toy(BaseModel):
    """Linear regression with a history of its own."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)

    def forward(self, inputs, targets, mode='tensor'):
        error = (self.linear(torch.stack(list(inputs))).squeeze(1) - torch.stack(list(targets))) ** 2
        return {'loss': error.mean()} if mode == 'loss' else [error.mean()]


class Mean:
    """The least an evaluator asks of a metric."""

    dataset_meta = None

    def process(self, data_batch, data_samples):
        self.value = float(data_samples[0])

    def evaluate(self, size):
        return {'error': self.value}


def make_runner(work_dir, max_iters=2, **kwargs):
    torch.manual_seed(0)
    data = [{'inputs': torch.rand(3), 'targets': torch.rand(1)[0]} for _ in range(4)]
    loader = {'dataset': data, 'batch_size': 2, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
    return Runner(
        Toy(),
        str(work_dir),
        train_dataloader=loader,
        test_dataloader=loader,
        train_cfg={'by_epoch': False, 'max_iters': max_iters},
        test_cfg={},
        test_evaluator=Mean(),
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        param_scheduler={'type': 'MultiStepLR', 'milestones': [3], 'by_epoch': False},
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}},
        default_scope='mmengine',
        experiment_name=f'toy-{Path(work_dir).name}-{len(os.listdir(Path(work_dir).parent))}-{max_iters}-{len(kwargs)}',
        **kwargs,
    )


class StopAt(Hook):
    """Interrupts training after an iteration."""

    def __init__(self, last):
        self.last = last

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.last:
            raise KeyboardInterrupt


class AfterLoading(Hook):
    """Keeps what a resumed run begins with."""

    def before_train(self, runner):
        self.iter = runner.iter
        self.momentum = [state['momentum_buffer'].clone() for state in runner.optim_wrapper.optimizer.state.values()]
        self.losses = runner.message_hub.get_scalar('train/loss').data[0].tolist()


def plant(path, payload, legacy=False):
    """Save a checkpoint that is good but for one object in it."""
    good = {'meta': {'epoch': 0, 'iter': 0}, 'state_dict': Toy().state_dict(), 'message_hub': payload}
    torch.save(good, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize('kind', [Payload, Evaluated])
@pytest.mark.parametrize('legacy', [False, True])
def test_the_planted_payload_is_live(tmp_path, kind, legacy):
    """A free torch.load runs it: what the tests below see refused would have done harm."""
    done = tmp_path / 'done'
    path = plant(tmp_path / 'bad.pth', kind(f'touch {done}'), legacy)
    run_python(f'import torch; torch.load({str(path)!r}, weights_only=False)')
    assert done.exists()


@pytest.mark.parametrize('kind', [Payload, Evaluated, ThroughGetattr])
@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('way', ['training', 'resuming', 'resuming-from-latest', 'testing'])
def test_payload_is_refused(tmp_path, kind, legacy, way):
    done = tmp_path / 'done'
    path = plant(tmp_path / 'bad.pth', kind(f'touch {done}'), legacy)
    work_dir = tmp_path / 'work'
    if way == 'resuming-from-latest':
        work_dir.mkdir()
        (work_dir / 'last_checkpoint').write_text(str(path))
        runner = make_runner(work_dir, resume=True)
    else:
        runner = make_runner(work_dir, load_from=str(path), resume=way == 'resuming')
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    with pytest.raises(UserError) as told:
        runner.test() if way == 'testing' else runner.train()
    named = {'Payload': 'system', 'Evaluated': 'eval', 'ThroughGetattr': 'getattr'}[kind.__name__]
    assert str(path) in str(told.value)
    assert named in str(told.value)
    assert 'state_dict' in str(told.value)
    assert '\n' not in str(told.value)
    assert not done.exists()
    assert all(torch.equal(value, before[name]) for name, value in runner.model.state_dict().items())


def test_call_sites_that_ask_for_free_loading_are_overruled(tmp_path):
    done = tmp_path / 'done'
    path = plant(tmp_path / 'bad.pth', Payload(f'touch {done}'))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert not done.exists()


def test_environment_cannot_switch_safe_loading_off(tmp_path):
    done = tmp_path / 'done'
    path = plant(tmp_path / 'bad.pth', Payload(f'touch {done}'))
    ran = run_python(
        f"""
        from lisa_backbone import compat
        patches = compat.apply()
        from mmengine.runner.checkpoint import CheckpointLoader
        print(patches[0].detail)
        CheckpointLoader.load_checkpoint({str(path)!r})
        """,
        env={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'},
    )
    assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD was set and is ignored' in ran.stdout
    assert 'UserError' in ran.stderr
    assert 'refused' in ran.stderr
    assert not done.exists()


def test_mmengine_resumes_its_own_checkpoint(tmp_path):
    """Two iterations, then two more after a restart, equal four in one go, with all of the state brought back."""
    whole = make_runner(tmp_path / 'whole', max_iters=4)
    whole.train()
    stopped = make_runner(tmp_path / 'split', max_iters=4)
    stopped.register_hook(StopAt(2), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    saved = compat.load_checkpoint(tmp_path / 'split' / 'iter_2.pth')
    assert isinstance(saved['message_hub']['log_scalars']['train/loss'], HistoryBuffer)

    resumed = make_runner(tmp_path / 'split', max_iters=4, resume=True)
    seen = AfterLoading()
    resumed.register_hook(seen, priority='VERY_LOW')
    resumed.train()
    stored = [state['momentum_buffer'] for state in saved['optimizer']['state'].values()]
    assert len(seen.momentum) == 2
    assert all(torch.equal(one, other) for one, other in zip(seen.momentum, stored, strict=True))
    assert seen.losses == saved['message_hub']['log_scalars']['train/loss'].data[0].tolist()
    assert len(seen.losses) == 2
    assert (seen.iter, resumed.iter) == (2, 4)
    assert resumed.optim_wrapper.get_lr()['lr'] == whole.optim_wrapper.get_lr()['lr'] == [pytest.approx(0.01)]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def rename_in_pickle(path, old, new):
    """Rewrite a checkpoint as an environment with other module names would have written it."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    key = next(name for name in files if name.endswith('data.pkl'))
    assert old in files[key]
    files[key] = files[key].replace(old, new)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_checkpoints_of_both_numpy_generations_load(tmp_path):
    here = b'cnumpy._core.multiarray\n' if hasattr(np, '_core') else b'cnumpy.core.multiarray\n'
    for other in (b'cnumpy.core.multiarray\n', b'cnumpy._core.multiarray\n'):
        path = tmp_path / 'numpy.pth'
        stored = {'history': HistoryBuffer([1.0, 2.5], [1, 1]), 'best': np.float64(0.25), 'ids': np.arange(3)}
        torch.save(stored, path)
        rename_in_pickle(path, here, other)
        loaded = compat.load_checkpoint(path)
        assert loaded['history'].data[0].tolist() == [1.0, 2.5]
        assert loaded['best'] == 0.25
        assert loaded['ids'].tolist() == [0, 1, 2]


def test_bound_statistics_of_early_mmengine_load(tmp_path):
    """Published checkpoints hold ``getattr(HistoryBuffer, 'min')``; that alone is allowed of getattr."""
    buffer = HistoryBuffer([3.0, 1.0], [1, 1])
    buffer.kept = {'min': BoundName(HistoryBuffer, 'min')}
    torch.save({'log': buffer}, tmp_path / 'early.pth')
    loaded = compat.load_checkpoint(tmp_path / 'early.pth')['log']
    assert loaded.kept['min'](loaded) == 1.0
    torch.save(BoundName(HistoryBuffer, '__init__'), tmp_path / 'other.pth')
    with pytest.raises(UserError, match='getattr'):
        compat.load_checkpoint(tmp_path / 'other.pth')


class BoundName:
    """Pickles as ``getattr(owner, name)``."""

    def __init__(self, *words):
        self.words = words

    def __reduce__(self):
        return getattr, self.words


def test_training_arguments_of_deit_load(tmp_path):
    torch.save({'model': {'w': torch.ones(2)}, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'deit.pth')
    loaded = compat.load_checkpoint(tmp_path / 'deit.pth')
    assert loaded['args'].lr == 0.1
    assert loaded['model']['w'].tolist() == [1.0, 1.0]


def damaged(path, kind):
    if kind == 'truncated':
        torch.save({'w': torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == 'empty':
        path.touch()
    elif kind == 'text':
        path.write_text('<html>404 Not Found</html>')
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'cut legacy':
        torch.save({'w': torch.zeros(1000), 'names': list(range(300))}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:700])
    elif kind == 'page':
        path.write_text('<!DOCTYPE html>\n<html>\n')
    elif kind == 'pointer':
        path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    elif kind == 'zeros':
        path.write_bytes(bytes(1000))
    elif kind == 'archive':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a.txt', 'a')
    elif kind == 'below a file':
        path.touch()
        return path / 'a.pth'
    elif kind == 'program':
        torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    return path


KINDS = {
    'truncated': 'is damaged .* copy it again',
    'cut legacy': 'copy it again',
    'empty': 'is empty or ends too early',
    'text': 'is a web page',
    'page': 'is a web page .* fetch them from the address of the file itself',
    'pointer': 'is a pointer of Git LFS .*git lfs pull',
    'zeros': 'is filled with zeros.* copy it again',
    'archive': 'copy it again',
    'folder': 'is not a file; check the path',
    'below a file': 'is not a file; check the path',
    'program': 'is a TorchScript program.* export its state_dict',
    'missing': 'is not a file; check the path',
}


@pytest.mark.parametrize('kind', KINDS)
def test_unreadable_checkpoints_are_told_in_one_sentence(tmp_path, kind):
    path = damaged(tmp_path / 'weights.pth', kind)
    from mmengine.runner.checkpoint import CheckpointLoader

    for load in (compat.load_checkpoint, lambda file: CheckpointLoader.load_checkpoint(str(file), 'cpu')):
        with pytest.raises(UserError) as told:
            load(path)
        assert str(path) in str(told.value)
        assert re.search(KINDS[kind], str(told.value))
        assert '\n' not in str(told.value)
        assert 'weights_only' not in str(told.value)  # torch's advice, which would unpickle freely


def test_checkpoint_of_others_is_told():
    assert 'may not be read by you' in str(compat.refusal('w.pth', PermissionError(13, 'Permission denied')))


def test_allow_list_names_no_function_that_acts():
    classes = [entry for entry in compat.safe_globals() if isinstance(entry, type)]
    functions = [entry for entry in compat.safe_globals() if not isinstance(entry, type)]
    assert all(isinstance(entry, tuple) for entry in functions)
    assert {name for _, name in functions} == {
        'numpy.core.multiarray._reconstruct',
        'numpy.core.multiarray.scalar',
        'numpy._core.multiarray._reconstruct',
        'numpy._core.multiarray.scalar',
        '__builtin__.getattr',
        'builtins.getattr',
    }
    assert getattr not in [function for function, _ in functions]
    assert np.dtype(object).__class__ not in classes


# ----------------------------------------------------------------------------------------------------------- frameworks


def test_apply_is_idempotent_and_applies_all_that_is_needed():
    first, second = compat.apply(), compat.apply()
    assert first == second
    assert len({patch.name for patch in first}) == len(first) == 9
    for patch in first:
        assert patch.needed == patch.applied, patch
        assert re.match(r'https://github\.com/[\w-]+/[\w-]+/(issues|pull)/\d+$', patch.thread)


def test_needs_no_framework(tmp_path):
    """With torch alone nothing is needed but safe loading, which works."""
    torch.save({'w': torch.ones(2)}, tmp_path / 'w.pth')
    code = f"""
        from lisa_backbone import compat
        print([patch.name for patch in compat.apply() if patch.needed])
        print(compat.load_checkpoint({str(tmp_path / 'w.pth')!r})['w'].tolist())
    """
    frameworks = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmaction', 'mmpretrain', 'torchvision')
    ran = run_python(hiding(*frameworks) + textwrap.dedent(code))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["['checkpoints are loaded with weights only, from an allow-list']", '[1.0, 1.0]']


def test_config_scopes(tmp_path):
    """Configs of the frameworks are inherited by scope in both stacks; upstream's names are left alone."""
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    for scope, base in (('mmseg', 'models/upernet_r50'), ('mmdet', 'models/retinanet_r50_fpn')):
        pytest.importorskip(scope)
        path = tmp_path / f'{scope}.py'
        path.write_text(f"_base_ = '{scope}::_base_/{base}.py'")
        assert Config.fromfile(path).model.backbone.depth == 50
    assert MODULE2PACKAGE['mmseg'] == ('mmseg' if ONEDL else 'mmsegmentation')
    assert patch_named('scopes').needed == ONEDL


def fake_package(folder, name, files):
    """Write a package that stands before the installed one of the same name."""
    for path, text in {'__init__.py': '', **files}.items():
        target = folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text))


ASSERTING = """
    import mmcv
    from mmengine.utils import digit_version
    mmcv_minimum_version = '2.0.0rc4'
    mmcv_maximum_version = '{limit}'
    assert digit_version(mmcv_minimum_version) <= digit_version(mmcv.__version__) < digit_version(mmcv_maximum_version)
    seen = mmcv.__version__
"""


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg', 'mmaction'])
@pytest.mark.parametrize(('limit', 'needed'), [('2.0.1', True), ('99.0.0', False)])
def test_version_assertion(tmp_path, framework, limit, needed):
    """A framework that refuses the installed mmcv is imported; one that accepts it is not touched."""
    pytest.importorskip('mmcv')
    fake_package(tmp_path, framework, {'__init__.py': ASSERTING.format(limit=limit)})
    ran = run_python(
        f"""
        import sys
        from lisa_backbone import compat
        patch = next(patch for patch in compat.apply() if patch.name.startswith({framework!r}))
        print(patch.needed, patch.applied, {framework!r} in sys.modules)
        import mmcv, {framework}
        from importlib import metadata
        print(mmcv.__version__ in [metadata.version(d) for d in ('mmcv', 'onedl-mmcv') if compat._distributed(d)])
        """,
        path=tmp_path,
    )
    assert ran.stdout.splitlines() == [f'{needed} {needed} {needed}', 'True'], ran.stderr
    if needed:
        assert 'AssertionError' in run_python(f'import {framework}', path=tmp_path).stderr


def test_installed_mmaction():
    """The real mmaction2 gives its recognizers; its lacking localizer says what is wrong when it is built."""
    pytest.importorskip('mmcv')
    if not compat._installed('mmaction'):
        pytest.skip('mmaction2 is not installed')
    plain = run_python('import mmaction')
    assert (plain.returncode != 0) == patch_named('mmaction accepts').needed, plain.stderr
    ran = run_python(
        """
        from lisa_backbone import compat
        compat.apply()
        import mmaction.models, mmaction.datasets
        from mmengine.registry import MODELS
        print(MODELS.get('mmaction.Recognizer3D').__name__)
        try:
            mmaction.models.localizers.DRN(vocab_size=1)
        except compat.UserError as error:
            print(error)
        """
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-2:] == [
        'Recognizer3D',
        'DRN is missing from the installed mmaction2; install mmaction2 from its sources to use it',
    ]


def test_mmaction_with_its_module_is_left_alone(tmp_path):
    files = {'models/localizers/__init__.py': 'from .drn.drn import DRN', 'models/localizers/drn/drn.py': 'DRN = 1'}
    fake_package(tmp_path, 'mmaction', files)
    ran = run_python(
        """
        from lisa_backbone import compat
        print(compat.apply()[-1].needed)
        from mmaction.models.localizers import DRN
        print(DRN)
        """,
        path=tmp_path,
    )
    assert ran.stdout.splitlines() == ['False', '1'], ran.stderr


def test_installed_torchvision():
    """torchvision imports, and its models run, whether or not its compiled part fits the installed torch."""
    if not compat._installed('torchvision'):
        pytest.skip('torchvision is not installed')
    plain = run_python('import torchvision')
    assert (plain.returncode != 0) == patch_named('torchvision').needed, plain.stderr
    ran = run_python(
        """
        from lisa_backbone import compat
        compat.apply()
        import torch, torchvision
        print(tuple(torchvision.models.resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape))
        boxes, scores = torch.tensor([[0., 0, 1, 1]]), torch.ones(1)
        try:
            print(torch.ops.torchvision.nms(boxes, scores, 0.5).tolist())
        except NotImplementedError:
            print('no implementation')
        """
    )
    expected = 'no implementation' if patch_named('torchvision').needed else '[0]'
    assert ran.stdout.splitlines() == ['(1, 1000)', expected], ran.stderr


def test_fitting_torchvision_is_left_alone(monkeypatch):
    monkeypatch.setattr(compat, '_torchvision_library', None)
    monkeypatch.setattr(compat, '_installed', lambda name: True)
    monkeypatch.setattr(compat, '_compiled_part_loads', lambda: True)
    assert not compat._torchvision_schemas().needed


def test_pkg_resources():
    """Where setuptools has dropped it, mmengine still tells installed packages from absent ones."""
    ask = """
        from mmengine.utils import get_installed_path, is_installed
        print(is_installed('torch'), is_installed('no-such-package'))
        import mmengine, os
        print(os.path.samefile(get_installed_path('mmengine'), os.path.dirname(mmengine.__file__)))
    """
    apply = """
        from lisa_backbone import compat
        print(next(patch.applied for patch in compat.apply() if 'pkg_resources' in patch.name))
    """
    hide, apply, ask = hiding('pkg_resources'), textwrap.dedent(apply), textwrap.dedent(ask)
    assert ('No module named' in run_python(hide + ask).stderr) == (not ONEDL)
    ran = run_python(hide + apply + ask)
    assert ran.stdout.splitlines() == [str(not ONEDL), 'True False', 'True'], ran.stderr
    assert not patch_named('pkg_resources').needed
