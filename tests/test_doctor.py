"""The doctor, as a user runs it, in this environment and in ones that are broken on purpose."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lisa_backbone import doctor

pytest.importorskip('mmdet')

ROOT = Path(__file__).resolve().parent.parent
REPAIR = 'run `python3 tools/bootstrap.py setup --repair`'


def run_doctor(*arguments, broken='', env=None):
    """Run tools/doctor.py, after code that breaks something."""
    code = textwrap.dedent(broken) + textwrap.dedent(
        f"""
        import runpy, sys
        sys.argv = ['doctor.py', *{list(arguments)!r}]
        runpy.run_path({str(ROOT / 'tools' / 'doctor.py')!r}, run_name='__main__')
        """
    )
    return subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, **(env or {})}, cwd=ROOT.parent
    )


def hide(*modules):
    """Return code after which modules cannot be found, as if they were not installed."""
    return f"""
        import sys
        from importlib.machinery import PathFinder

        class Hiding:
            find_distributions = staticmethod(PathFinder.find_distributions)

            def find_spec(self, name, path=None, target=None):
                hidden = name in {modules} or name.split('.')[0] in {modules}
                return None if hidden else PathFinder.find_spec(name, path, target)

        sys.meta_path = [Hiding() if finder is PathFinder else finder for finder in sys.meta_path]
    """


def test_detection_can_run_here():
    ran = run_doctor('--task', 'det')
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = ran.stdout
    assert f'{sys.version_info[0]}.{sys.version_info[1]}' in told
    assert 'det       can run' in told
    assert 'nms and roi_align give the known values on cpu' in told
    assert 'LiSA pico gives four maps at strides 4 to 32' in told
    assert 'checkpoints are loaded with weights only' in told
    assert 'https://github.com/open-mmlab/mmengine/issues/1655' in told
    assert 'seg' not in told.split('tasks')[1]


def test_json_is_nothing_but_json():
    ran = run_doctor('--json', '--task', 'det', '--task', 'seg')
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert set(report['tasks']) == {'det', 'seg'}
    assert report['broken'] == []
    assert report['machine']['stack'] in doctor.STACKS
    names = {package['what'] for package in report['packages']}
    assert {'torch', 'numpy', 'scikit-learn', doctor.STACKS[report['machine']['stack']]['mmcv']} <= names
    assert all(patch['needed'] == patch['applied'] for patch in report['patches'])


BREAKS = {
    'framework absent': (hide('mmdet'), 'mmdet: ModuleNotFoundError', 'det'),
    'evaluation absent': (hide('pycocotools'), "ModuleNotFoundError: No module named 'pycocotools'", 'det'),
    'operators absent': (hide('mmcv._ext'), 'mmcv operators: ', 'det'),
    'operators wrong': (
        """
        import mmcv.ops
        right = mmcv.ops.roi_align
        mmcv.ops.roi_align = lambda *arguments: right(*arguments) + 0.5
        """,
        'roi_align gives [3.0, 5.0, 3.0, 5.0] instead of [2.5, 4.5, 2.5, 4.5]',
        'det',
    ),
    'pictures wrong': (
        """
        import mmcv
        right = mmcv.imread
        mmcv.imread = lambda path: right(path)[..., ::-1]
        """,
        'images: mmcv does not read back the picture that it wrote',
        'det',
    ),
    'mmengine absent': (hide('mmengine'), 'mmengine: ModuleNotFoundError', 'det'),
    'two stacks': (
        """
        from importlib import metadata
        real = metadata.version
        metadata.version = lambda name: '1' if name in ('mmengine', 'onedl-mmengine') else real(name)
        """,
        'onedl and the openmmlab stack are both installed',
        'det',
    ),
    'segmentation absent': (hide('mmseg'), 'mmseg: ModuleNotFoundError', 'seg'),
}


@pytest.mark.parametrize('case', BREAKS)
def test_what_is_broken_is_named_with_its_mend(case):
    broken, told, task = BREAKS[case]
    ran = run_doctor('--task', task, broken=broken)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert f'{task:<9} CANNOT RUN' in ran.stdout
    assert f'BAD {told}' in ran.stdout or told in ran.stdout
    assert '-> ' in ran.stdout
    assert 'tools/bootstrap.py setup' in ran.stdout.split('-> ')[1].splitlines()[0]
    assert ran.stderr.splitlines()[-1].startswith(f'error: cannot run: {task}; ')


def test_another_task_is_not_held_against_the_one_asked_for():
    assert run_doctor('--task', 'det', broken=hide('mmseg', 'mmaction', 'mmpretrain')).returncode == 0


def test_without_torch_one_sentence():
    ran = run_doctor(broken=hide('torch'))
    assert ran.returncode == 1
    assert ran.stderr.startswith('error: lisa_backbone cannot be imported (No module named')
    assert len(ran.stderr.splitlines()) == 1
    assert 'tools/bootstrap.py setup --repair' in ran.stderr


def test_packages_that_differ_from_the_pins_are_named(tmp_path, monkeypatch):
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    constraints = tmp_path / 'requirements' / 'constraints.txt'
    text = constraints.read_text().replace('yapf==', 'yapf==0.0.')
    constraints.write_text(text + 'no-such-package==1.0\nonly-elsewhere==1.0; python_version < "3"\n')
    monkeypatch.setattr(doctor, '_requirements', lambda: tmp_path / 'requirements')
    findings = {finding.what: finding for finding in doctor._packages(doctor.installed_stack())}
    assert not findings['yapf'].good
    assert 'is pinned' in findings['yapf'].detail
    assert findings['yapf'].mend == REPAIR
    assert findings['no-such-package'].detail == 'not installed, 1.0 is pinned'
    assert 'only-elsewhere' not in findings
    assert findings['six'].good
    # A local label such as +cpu is the same version.
    assert findings['torch'].good


def test_a_report_outside_a_checkout_lists_no_pins(monkeypatch):
    monkeypatch.setattr(doctor, '_requirements', lambda: None)
    assert doctor._packages('onedl') == []


def test_nvcc_is_sought_in_the_order_of_the_set_up(tmp_path, monkeypatch):
    def compiler(folder, release):
        nvcc = tmp_path / folder / 'bin' / 'nvcc'
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.1"\n')
        nvcc.chmod(0o755)
        return nvcc.parent

    for name in ('CUDA_HOME', 'CUDA_PATH'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', str(compiler('on the path', '12.4')), prepend=os.pathsep)
    assert doctor._machine()['nvcc'] == '12.4'
    compiler('by the variable', '13.0')
    for name in ('CUDA_PATH', 'CUDA_HOME'):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path / 'by the variable'))
            assert doctor._machine()['nvcc'] == '13.0'
