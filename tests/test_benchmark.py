"""The benchmark: its arithmetic, its memory against tensors of known size, what it does when memory ends, its CSV."""

import gc
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import run_tool
from torch import nn

from lisa_backbone.benchmarking import probe as probe_module
from lisa_backbone.benchmarking import runs
from lisa_backbone.benchmarking.candidates import Candidate, check_candidates, parse_pairs
from lisa_backbone.benchmarking.figure import draw_growth
from lisa_backbone.benchmarking.passes import (
    OutOfMemory,
    back_off,
    make_pass,
    measurement,
    precision,
    ratios,
    time_in_turns,
)
from lisa_backbone.benchmarking.probe import Job, TooSlow, probe_apart
from lisa_backbone.benchmarking.records import make_row, words
from lisa_backbone.benchmarking.report import fit_growth, growth_lines, table
from lisa_backbone.benchmarking.runs import run_benchmark
from lisa_backbone.benchmarking.settings import Group, Settings
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError
from lisa_backbone.figures import LISA, OTHERS
from lisa_backbone.rows import append_rows, read_rows

REPO = Path(__file__).parents[1]
MIB = 2**20
VERSION = torch.__version__.partition('+')[0]
OPERATORS = (Candidate('NoMixing', dim=8), Candidate('SelfAttention:rpe=None', dim=8))


def settings(tmp_path, **more):
    given = dict(candidates=OPERATORS, shapes=((4, 4),), out=tmp_path, threads=1, rounds=3, warmup=1)
    return Settings(**{**given, **more})


def job(candidate, shape, mode='inference', batch=1, limit=60.0):
    return Job(candidate, shape, batch, mode, 'fp32', 'cpu', 1, limit)


def row(candidate, side, ms, memory, batch=1, **more):
    base = dict.fromkeys(('status', 'ratio', 'ratio_iqr', 'iqr_ms'), '')
    base |= {
        'candidate': candidate,
        'kind': 'backbone',
        'mode': 'inference',
        'batch_asked': str(batch),
        'batch': str(batch),
    }
    base |= {'input': f'{side}x{side}', 'positions': str(side * side), 'median_ms': str(ms), 'weights_mib': '10'}
    return {**base, 'peak_memory_mib': str(memory), **more}


# ----------------------------------------------------------------------------------------------------------- candidates


def test_options_are_read():
    assert parse_pairs('LiSA') == {}
    assert parse_pairs('mmdet.X:depths=[2,2,(6,2)],a.b=1e-3,norm=BN,flag=True,none=None,d={"k": 1, "l": 2}') == {
        'depths': [2, 2, (6, 2)],
        'a.b': 1e-3,
        'norm': 'BN',
        'flag': True,
        'none': None,
        'd': {'k': 1, 'l': 2},
    }
    with pytest.raises(UserError, match=r"'padded' in 'LiSAttention:padded' is not OPTION=VALUE"):
        parse_pairs('LiSAttention:padded')


def test_operators_get_their_options():
    candidate = Candidate('LiSAttention:form=padded,rpe.type=table,rpe.radius=3', dim=12, heads=3)
    assert (candidate.kind, candidate.input_shape((5, 6))) == ('operator', (30, 12))
    operator = candidate.build((5, 6)).operator
    assert (operator.form, operator.rpe.radius, operator.num_heads) == ('padded', 3, 3)
    assert candidate.build((5, 6))(torch.zeros(1, 30, 12)).shape == (1, 30, 12)
    assert Candidate('LiSAttention').input_shape((2, 3, 4)) == (24, 64)


def test_candidates_must_go_together():
    with pytest.raises(UserError, match="'LiSAttention' is an operator on tokens and 'LiSA' takes images"):
        check_candidates([Candidate('LiSA'), Candidate('LiSAttention')])
    with pytest.raises(UserError, match="'LiSA' is named twice"):
        check_candidates([Candidate('LiSA'), Candidate('LiSA')])


# ------------------------------------------------------------------------------------------------------ passes and time


def test_passes_do_what_their_mode_says():
    model = nn.Linear(3, 2)
    make_pass(model, (3,), 4, 'inference', 'fp32', 'cpu')()
    assert (model.weight.grad, model.training) == (None, False)
    run = make_pass(model, (3,), 4, 'training', 'fp32', 'cpu')
    run()
    first = model.weight.grad.clone()
    run()
    assert model.training
    assert torch.equal(model.weight.grad, first)  # set anew, not added up
    assert torch.allclose(model.bias.grad, torch.full((2,), 1 / 2))  # of the mean of a batch of two outputs
    with pytest.raises(UserError, match='no output has a gradient'):
        make_pass(model.requires_grad_(False), (3,), 4, 'training', 'fp32', 'cpu')()


@pytest.mark.parametrize(
    ('dtype', 'seen'), [('fp32', torch.float32), ('bf16', torch.bfloat16), ('fp16', torch.float16)]
)
def test_precision_is_that_of_autocast(dtype, seen):
    found = []

    class Model(nn.Linear):
        def forward(self, x):
            found.append((x.dtype, super().forward(x).dtype))
            return {'maps': [super().forward(x)]}

    make_pass(Model(4, 4), (4,), 2, 'training', dtype, 'cpu')()
    assert found == [(torch.float32, seen)]


def test_float32_is_not_tf32_unless_asked_for():
    cudnn = torch.backends.cudnn.allow_tf32
    for dtype in ('fp32', 'tf32'):
        with precision(dtype):
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (dtype == 'tf32')
    assert torch.backends.cudnn.allow_tf32 == cudnn


def test_candidates_take_turns():
    order, ticks = [], []
    passes = {name: lambda name=name: order.append(name) for name in 'abc'}
    seconds = time_in_turns(passes, rounds=3, warmup=2, tick=lambda: ticks.append(1))
    assert ''.join(order) == 'bca' + 'cab' + 'abc' + 'bca' + 'cab'
    assert {name: len(took) for name, took in seconds.items()} == {'a': 3, 'b': 3, 'c': 3}
    assert len(ticks) == 15
    assert gc.isenabled()


def test_median_spread_and_ratio():
    took = measurement([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (took.median, took.iqr) == (3.0, 2.0)
    # Round by round: a machine that is slow for a while changes both times and not the ratio.
    assert ratios([2.0, 20.0, 6.0], 1, [1.0, 10.0, 3.0], 1).median == 2.0
    assert ratios([2.0, 20.0, 6.0], 1, [1.0, 10.0, 3.0], 1).iqr == 0.0
    assert ratios([1.0, 1.0, 1.0], 2, [1.0, 1.0, 1.0], 8).median == 4.0  # for one input


# --------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory.'),
        MemoryError(),
        OutOfMemory(),
        RuntimeError("[enforce fail at CPUAllocator.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError('cuFFT error: CUFFT_ALLOC_FAILED'),
    ],
)
def test_batch_is_halved_until_it_fits(error):
    batches = []

    class Net(nn.Module):
        def forward(self, x):
            batches.append(len(x))
            if len(x) > 3:
                raise error
            return x

    fits = back_off(lambda batch: make_pass(Net(), (2,), batch, 'inference', 'fp32', 'cpu')() or 'done', 20)
    assert fits == (2, 'done')
    assert batches == [20, 10, 5, 2]

    def never(batch):
        raise error

    assert back_off(never, 4) is None


def test_other_errors_are_not_taken_for_memory():
    def wrong(batch):
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    with pytest.raises(RuntimeError, match='shapes'):
        back_off(wrong, 4)


KNOWN = """
import torch
from lisa_backbone.benchmarking.probe import resident_peak
freed = [torch.ones(20 * 2**18) for _ in range(10)]
del freed
torch.ones(2**20) @ torch.ones(2**20)  # what the library keeps for itself
kept = torch.ones(100 * 2**18)
def both():
    one = torch.ones(64 * 2**18)
    two = torch.ones(32 * 2**18)
def in_turn():
    one = torch.ones(64 * 2**18)
    del one
    two = torch.ones(32 * 2**18)
print(*(round(resident_peak(run)[0] / 2**20) for run in (both, in_turn, lambda: None)), resident_peak(both)[1])
"""


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='the kernel does not tell the resident peak')
def test_memory_of_known_tensors():
    """Tensors of 64 and 32 MiB at once, one after the other, and none; what was there before does not count."""
    env = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'}
    done = subprocess.run([sys.executable, '-c', KNOWN], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    both, in_turn, nothing, *method = done.stdout.split()
    assert [float(x) for x in (both, in_turn, nothing)] == pytest.approx([96, 64, 0], abs=1)
    assert ' '.join(method) == 'resident set over that before'


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='the kernel does not tell the resident peak')
def test_memory_of_a_model():
    """Two linear maps of 16384 tokens in 256 channels, each 16 MiB: input, middle and output are there together."""
    candidate = Candidate('NoMixing', dim=256)
    found = probe_apart(job(candidate, (128, 128)))
    weights = 2 * (256 * 256 + 256) * 4
    assert (found['weights'], found['parameters']) == (weights, weights // 4)
    assert found['macs'] == 2 * 16384 * 256 * 256
    assert found['peak'] / MIB == pytest.approx(weights / MIB + 48, abs=4)
    both = probe_apart(job(candidate, (64, 64), batch=4))  # as many tokens
    assert both['peak'] / MIB == pytest.approx(weights / MIB + 48, abs=4)
    assert both['macs'] == found['macs'] / 4  # of one input
    # In the backward pass the input's gradient comes on top at least, and the weights' gradients.
    assert probe_apart(job(candidate, (128, 128), 'training'))['peak'] > found['peak'] + 16 * MIB


def test_probe_tells_how_it_ended(tmp_path):
    dense = Candidate('LiSAttention:form=dense,rpe=table', dim=8)
    with pytest.raises(OutOfMemory) as ended:
        probe_apart(job(dense, (1000, 1000)))  # a kernel of 32 TB
    assert ended.value.args[0]['parameters'] == sum(p.numel() for p in dense.build((2, 2)).parameters())
    with pytest.raises(TooSlow) as ended:
        probe_apart(job(Candidate('SelfAttention:rpe=None', dim=8), (128, 128), limit=1e-3))
    assert ended.value.args[0]['macs'] == 4 * 128**2 * 64 + 2 * 128**4 * 8
    # Where memory runs out the system may kill the process.
    (tmp_path / 'killed.py').write_text('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n')
    with pytest.raises(OutOfMemory):
        probe_apart(job(Candidate(str(tmp_path / 'killed.py')), (32, 32)))
    with pytest.raises(UserError, match=r'LiSA:arch=pico,temporal_stride=2: .*takes videos .* got \(1, 3, 32, 32\)'):
        probe_apart(job(Candidate('LiSA:arch=pico,temporal_stride=2'), (32, 32)))
    with pytest.raises(UserError, match='does not take a batch of 1 inputs of 3x4x32x32 in inference'):
        probe_apart(job(Candidate('timm.resnet18'), (4, 32, 32)))
    assert 'MALLOC_MMAP_THRESHOLD_' not in os.environ


def test_probe_starts_anew_where_forking_will_not_do(monkeypatch):
    """As it does for CUDA."""
    monkeypatch.setitem(probe_module._START, 'cpu', 'spawn')
    found = probe_apart(job(Candidate('NoMixing', dim=8), (4, 4)))
    assert (found['parameters'], found['macs']) == (2 * 72, 2 * 16 * 64)


# ------------------------------------------------------------------------------------------------------- runs and files


def found_by(fake):
    """A stand-in for the probe: ``fake`` raises, or not."""

    def probe(job):
        fake(job)
        return dict(parameters=1, weights=0, macs=2, uncounted=[], peak=MIB * job.batch, method='fake', seconds=0.001)

    return probe


def test_rows_say_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'probe_apart', found_by(lambda job: None))
    paths = run_benchmark(settings(tmp_path, modes=('inference', 'training'), batches=(1, 2), views=12))
    assert [path.name for path in paths] == [
        f'benchmark-{mode}-fp32-cpu1-torch{VERSION}-4x4-12views-dim8-heads2.csv' for mode in ('inference', 'training')
    ]
    rows = read_rows(paths[0])
    assert [(r['candidate'], r['batch']) for r in rows] == [
        (spec, batch) for batch in '12' for spec in ('NoMixing', 'SelfAttention:rpe=None')
    ]
    for r in rows:
        assert (r['mode'], r['input'], r['positions'], r['views'], r['dim']) == ('inference', '4x4', '16', '12', '8')
        assert (r['device'], r['dtype'], r['threads'], r['torch']) == ('cpu', 'fp32', '1', torch.__version__)
        assert (r['rounds'], r['status'], r['peak_memory_mib']) == ('3', '', f'{float(r["batch"]):.2f}')
        assert r['ratio_to'] == 'NoMixing'
        rate = float(r['batch']) / (float(r['median_ms']) / 1000) / 12
        assert float(r['per_second']) == pytest.approx(rate, rel=0.01)
    assert [r['ratio'] for r in rows[::2]] == ['1.0000', '1.0000']


def test_what_is_in_the_file_is_not_measured_again(tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(runs, 'probe_apart', found_by(lambda job: probed.append((job.candidate.spec, job.shape))))
    first = settings(tmp_path, shapes=((4, 4), (2, 2)), sweep=True)
    (path,) = run_benchmark(first)
    before = read_rows(path)
    assert [shape for _, shape in probed] == [(2, 2), (2, 2), (4, 4), (4, 4)]
    probed.clear()
    run_benchmark(first)
    assert probed == []
    more = settings(
        tmp_path, candidates=(*OPERATORS, Candidate('LiSAttention', dim=8)), shapes=((2, 2), (3, 3)), sweep=True
    )
    run_benchmark(more)
    assert probed == [('LiSAttention', (2, 2))] + [(c.spec, (3, 3)) for c in more.candidates]
    rows = read_rows(path)
    assert rows[:4] == before
    assert rows[4]['ratio_to'] == 'NoMixing'  # which was timed beside it and not written again
    assert len(rows) == 8


def test_sweep_of_operators(tmp_path):
    """Nothing stands in for anything here."""
    sides, candidates = (4, 8, 16), (Candidate('NoMixing', dim=16), Candidate('SelfAttention:rpe=None', dim=16))
    more = dict(shapes=tuple((n, n) for n in sides), sweep=True, modes=('inference', 'training'))
    for path, mode in zip(run_benchmark(settings(tmp_path, candidates=candidates, **more)), more['modes'], strict=True):
        rows = read_rows(path)
        assert path.name.endswith(f'{mode}-fp32-cpu1-torch{VERSION}-sweep-dim16-heads2.csv')
        assert [(r['candidate'], r['input']) for r in rows] == [(c.spec, f'{n}x{n}') for n in sides for c in candidates]
        for r in rows:
            n, none = int(r['positions']), r['candidate'] == 'NoMixing'
            assert int(r['macs']) == (2 * n * 256 if none else 4 * n * 256 + 2 * n * n * 16)
            assert int(r['parameters']) == (2 if none else 4) * (256 + 16)
            assert (r['kind'], r['mode'], r['batch'], r['rounds'], r['uncounted']) == ('operator', mode, '1', '3', '')
            assert float(r['median_ms']) > 0
            assert float(r['ratio']) == 1.0 if none else float(r['ratio']) > 0
            assert r['weights_mib'] == f'{4 * int(r["parameters"]) / MIB:.2f}'
        assert [line.partition(':')[0] for line in growth_lines(rows)] == [
            f'NoMixing, {mode}, batch 1',
            'SelfAttention',
        ]


def test_compiled_candidates(tmp_path):
    """Nothing stands in for anything here either; what is compiled has a file of its own."""
    (path,) = run_benchmark(settings(tmp_path, candidates=OPERATORS[:1], shapes=((4, 4),), compiled=True))
    assert path.name == f'benchmark-inference-fp32-cpu1-torch{VERSION}-4x4-dim8-heads2-compiled.csv'
    (row,) = read_rows(path)
    assert (row['compiled'], row['status']) == ('yes', '')
    assert float(row['median_ms']) > 0
    assert int(row['macs']) == 2 * 16 * 8**2


class AddOne(nn.Module):
    def forward(self, x):
        return x + 1


@pytest.fixture
def graphs(monkeypatch):
    """The graphs of AddOne that were compiled."""
    compiled, real = [], nn.Module.compile

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(AddOne, 'compile', lambda model, **more: real(model, backend=backend, **more))
    torch._dynamo.reset()
    return compiled


def test_a_compiled_pass_is_that_of_the_compiled_model(graphs):
    model = AddOne()
    make_pass(model, (3,), 4, 'inference', 'fp32', 'cpu')()
    assert graphs == []
    make_pass(model, (3,), 4, 'inference', 'fp32', 'cpu', compiled=True)()
    assert len(graphs) == 1


def test_each_of_many_compiled_models_of_a_class_is_compiled(graphs):
    """Past 8 of one function, torch.compile by default runs it as it is."""
    for size in range(2, 14):
        make_pass(AddOne(), (size,), 4, 'inference', 'fp32', 'cpu', compiled=True)()
    assert len(graphs) == 12


def test_a_pass_that_cannot_be_recorded_is_told_in_a_sentence(monkeypatch):
    def make(*args, graph=False, **kwargs):
        if graph:
            raise RuntimeError('operation not permitted when stream is capturing')
        return lambda: None

    monkeypatch.setattr(probe_module, 'make_pass', make)
    asked = replace(job(Candidate('NoMixing', dim=8), (4, 4)), graph=True)
    with pytest.raises(UserError, match=r"candidate 'NoMixing' .*not permitted when stream is capturing"):
        probe_module.probe(asked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='CUDA graphs need a GPU')
@pytest.mark.parametrize('mode', ['inference', 'training'])
def test_a_recorded_pass_is_the_pass(mode):
    model, seen = nn.Linear(3, 2), []
    model.register_forward_hook(lambda *found: seen.append(found[2]))
    run = make_pass(model, (3,), 4, mode, 'fp32', 'cuda', graph=True)
    calls = len(seen)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(7.0)
    run()
    torch.cuda.synchronize()
    assert len(seen) == calls  # Python did nothing
    if mode == 'training':
        torch.testing.assert_close(model.bias.grad, torch.full((2,), 1 / 2, device='cuda'))
    else:
        assert (seen[-1] == 7).all()  # of the new weights


def test_passes_that_are_recorded_have_files_of_their_own(tmp_path, monkeypatch):
    (path,) = {group.path for group in settings(tmp_path, graph=True).groups()}
    assert path.name == f'benchmark-inference-fp32-cpu1-torch{VERSION}-4x4-dim8-heads2-graph.csv'
    monkeypatch.setattr(runs, 'probe_apart', found_by(lambda job: None))
    (path,) = run_benchmark(settings(tmp_path))
    rows = read_rows(path)
    assert [row['graph'] for row in rows] == ['no', 'no']
    # A file from before there was the column is one without graphs, and is gone on with.
    path.unlink()
    append_rows(path, [{key: value for key, value in row.items() if key != 'graph'} for row in rows[:1]])
    run_benchmark(settings(tmp_path))
    assert [(row['candidate'], row['graph']) for row in read_rows(path)] == [
        ('NoMixing', ''),
        ('SelfAttention:rpe=None', 'no'),
    ]
    append_rows(path, [{**rows[0], 'candidate': 'XCA', 'graph': 'yes'}])
    with pytest.raises(UserError, match=r"was measured with graph 'yes', which now is 'no'"):
        run_benchmark(settings(tmp_path))


def test_the_floor_reads_three_times_and_writes_once():
    floor, x = Candidate('Floor', dim=256).build((128, 128)), torch.zeros(1, 8, 256)
    with torch.autocast('cpu', torch.bfloat16):
        y = floor(x)
    assert (y.shape, y.dtype) == (x.shape, torch.bfloat16)
    q, k, v = floor.qkv
    torch.testing.assert_close(y, (q.float() + k.float() * v.float()).bfloat16())
    found = probe_apart(job(Candidate('Floor', dim=256), (128, 128)))
    assert (found['parameters'], found['macs']) == (0, 0)
    assert found['peak'] / MIB == pytest.approx(5 * 16, abs=4)  # with the tokens, which it does not read
    check_candidates([Candidate('LiSAttention'), Candidate('Floor')])
    with pytest.raises(UserError, match='Floor has no options'):
        Candidate('Floor:dim=3').build((4, 4))


def test_interrupt_keeps_the_rows_that_are_made(tmp_path, monkeypatch):
    def interrupt(job):
        if job.shape == (3, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, 'probe_apart', found_by(interrupt))
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(tmp_path, shapes=((2, 2), (3, 3)), sweep=True))
    (path,) = tmp_path.iterdir()
    assert [r['input'] for r in read_rows(path)] == ['2x2', '2x2']


@pytest.mark.parametrize(
    ('error', 'status'), [(OutOfMemory({}), 'out of memory'), (TooSlow({'macs': 5}), 'a pass takes over 60 s')]
)
def test_sweep_of_a_candidate_ends_where_it_does_not_fit(tmp_path, monkeypatch, error, status):
    tried = []

    def end(job):
        tried.append((job.candidate.name, job.shape[0], job.batch))
        if job.candidate.name == 'SelfAttention' and job.shape[0] > 3:
            raise error

    monkeypatch.setattr(runs, 'probe_apart', found_by(end))
    more = settings(tmp_path, shapes=tuple((n, n) for n in (2, 3, 4, 5)), sweep=True, batches=(2,))
    (path,) = run_benchmark(more)
    rows = [r for r in read_rows(path) if r['candidate'].startswith('SelfAttention')]
    assert [(r['input'], r['status'], r['median_ms'] != '') for r in rows] == [
        ('2x2', '', True),
        ('3x3', '', True),
        ('4x4', status, False),
    ]
    assert [r['input'] for r in read_rows(path) if r['candidate'] == 'NoMixing'] == ['2x2', '3x3', '4x4', '5x5']
    assert ('SelfAttention', 5, 2) not in tried
    assert words(rows[2]).endswith(f'4x4, inference: {status}')
    assert rows[2]['macs'] == ('' if status == 'out of memory' else '5')
    tried.clear()
    run_benchmark(more)
    assert tried == []


def slow(tried, seconds):
    """A stand-in for a probe in which a pass takes some seconds."""

    def probe(job):
        tried.append((job.shape[0], job.batch))
        if seconds(job) > job.limit:
            raise TooSlow({'macs': 5})

    return found_by(probe)


def test_a_batch_that_is_too_slow_leaves_smaller_ones_in(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(runs, 'probe_apart', slow(tried, lambda job: job.batch * job.shape[0]))
    more = settings(tmp_path, candidates=OPERATORS[:1], shapes=tuple((n, n) for n in (2, 3, 4)), sweep=True)
    (path,) = run_benchmark(replace(more, batches=(1, 32), limit=70))
    found = [(r['input'], r['batch_asked'], r['status']) for r in read_rows(path)]
    assert found == [
        ('2x2', '1', ''),
        ('2x2', '32', ''),
        ('3x3', '1', ''),
        ('3x3', '32', 'a pass takes over 70 s'),
        ('4x4', '1', ''),
    ]
    tried.clear()
    run_benchmark(replace(more, batches=(1, 64), limit=70))  # what was too slow with 32 is so with 64
    assert tried == [(2, 64)]


def test_what_was_too_slow_is_tried_again_with_more_time(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(runs, 'probe_apart', slow(tried, lambda job: {2: 10, 3: 100, 4: 1000}[job.shape[0]]))
    more = settings(tmp_path, candidates=OPERATORS[:1], shapes=tuple((n, n) for n in (2, 3, 4)), sweep=True)

    def run(limit):
        tried.clear()
        (path,) = run_benchmark(replace(more, limit=limit))
        return [(r['input'], r['status']) for r in read_rows(path)], [side for side, _ in tried]

    ended = [('2x2', ''), ('3x3', 'a pass takes over 60 s')]
    assert run(60) == (ended, [2, 3])
    assert run(60) == (ended, [])
    assert run(30) == (ended, [])
    assert run(90) == ([('2x2', ''), ('3x3', 'a pass takes over 90 s')], [3])
    assert run(600.5) == ([('2x2', ''), ('3x3', ''), ('4x4', 'a pass takes over 600.5 s')], [3, 4])
    assert run(1200) == ([('2x2', ''), ('3x3', ''), ('4x4', '')], [4])


def test_a_retry_that_is_stopped_loses_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'probe_apart', slow([], lambda job: 100))
    (path,) = run_benchmark(settings(tmp_path))
    before = path.read_text()
    assert [r['status'] for r in read_rows(path)] == ['a pass takes over 60 s'] * 2

    def interrupt(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, 'probe_apart', found_by(interrupt))
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(tmp_path, limit=200))
    assert path.read_text() == before
    monkeypatch.setattr(runs, 'probe_apart', slow([], lambda job: 100))
    run_benchmark(settings(tmp_path, candidates=OPERATORS[1:], limit=200))
    rows = [(r['candidate'], r['status']) for r in read_rows(path)]
    assert rows == [('NoMixing', 'a pass takes over 60 s'), ('SelfAttention:rpe=None', '')]


def test_rows_hold_the_batch_that_fits(tmp_path, monkeypatch):
    def small(job):
        if job.candidate.name == 'SelfAttention' and job.batch > 2:
            raise OutOfMemory({})

    monkeypatch.setattr(runs, 'probe_apart', found_by(small))
    (path,) = run_benchmark(settings(tmp_path, batches=(8,)))
    assert [(r['batch_asked'], r['batch'], r['peak_memory_mib']) for r in read_rows(path)] == [
        ('8', '8', '8.00'),
        ('8', '2', '2.00'),
    ]


def test_ratio_is_for_one_input(tmp_path):
    first, second = OPERATORS
    found = {c: dict(parameters=1, weights=0, macs=1, batch=b) for c, b in ((first, 8), (second, 2))}
    seconds = {first: [0.8, 0.8, 1.6], second: [0.4, 0.4, 0.8]}
    group = Group((4, 4), 'inference', 8, tmp_path / 'x.csv')
    made = make_row(second, found, seconds, group, settings(tmp_path))
    assert (made['median_ms'], made['per_second'], made['ratio'], made['peak_memory_mib']) == (
        '400.0000',
        '5.0000',
        '2.0000',
        '',
    )


def test_fewer_rounds_where_they_take_long(tmp_path):
    few = settings(tmp_path, rounds=20, seconds=10.0)
    assert runs._rounds([0.1, 0.1], few) == 20
    assert runs._rounds([0.5, 0.5], few) == 10
    assert runs._rounds([50.0], few) == 3
    assert runs._rounds([50.0], settings(tmp_path, rounds=2)) == 2


def test_rows_of_another_machine_are_not_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'probe_apart', found_by(lambda job: None))
    (path,) = run_benchmark(settings(tmp_path))
    rows = [{**r, 'device_name': 'Abacus'} for r in read_rows(path)]
    path.unlink()
    append_rows(path, rows)
    with pytest.raises(UserError, match=r"was measured with device_name 'Abacus', which now is .* with --out"):
        run_benchmark(settings(tmp_path))


@pytest.mark.parametrize(
    ('more', 'sentence'),
    [
        (dict(shapes=((4, 0),)), 'shape 4x0 is not positive'),
        (dict(shapes=((-1, 4, 4),)), 'shape -1x4x4 is not positive'),
        (dict(batches=(0,)), '--batch 0'),
        (dict(candidates=(Candidate('NoMixing', dim=0),)), '--dim 0 and --heads 2 must be positive'),
        (dict(rounds=0), '--rounds 0 is not positive'),
        (dict(limit=-1.0), '--limit -1.0 is not positive'),
        (dict(device='cpu:1'), '--device cpu:1 is unknown'),
        (dict(device='cuda:99'), r'--device cuda:99: torch .* sees \d+ CUDA devices; take --device cpu'),
        (dict(dtype='tf32'), '--dtype tf32 is for CUDA alone'),
        (dict(graph=True), '--graph records CUDA graphs; take --device cuda'),
        (dict(candidates=(Candidate('NoMixing', dim=8, heads=3),)), 'dim=8 cannot be split into num_heads=3'),
    ],
)
def test_bad_settings_are_told_before_anything_runs(tmp_path, more, sentence):
    with pytest.raises(UserError, match=sentence):
        run_benchmark(settings(tmp_path, **more))
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- growth and reports


def test_growth_of_known_powers():
    tokens = [49, 196, 784, 3136]
    for exponent in (0.0, 1.0, 1.7, 2.0):
        fit = fit_growth(tokens, [3.5 * n**exponent for n in tokens])
        assert fit.exponent == pytest.approx(exponent, abs=1e-9)
        assert fit.last == pytest.approx(exponent, abs=1e-9)
        assert (fit.low, fit.high, fit.sizes) == (49, 3136, 4)
    # N log N lies between 1 and 2; the fit is that of least squares in the logarithms.
    fit = fit_growth(tokens, [n * math.log2(n) for n in tokens])
    assert 1.1 < fit.exponent < 1.3
    assert fit.last == pytest.approx(math.log(4 * math.log(3136) / math.log(784)) / math.log(4))
    assert fit_growth([1, 10, 100], [1, 10, 10000]).exponent == pytest.approx(2.0)
    assert fit_growth([4, 9], [1, 2]) is None
    assert fit_growth([4, 9, 16], [1, 2, 0]) is None


def test_growth_is_of_one_input_and_without_the_weights():
    rows = [row('a', n, n**4 * b, 10 + n**2 * b, batch=b) for n, b in ((10, 2), (20, 2), (40, 2))]
    rows += [row('a', 80, '', '', status='out of memory', batch=2)]
    assert growth_lines(rows) == [
        'a, inference, batch 2: time as N^2.00 (N^2.00 at the end; 3 sizes, 10x10 to 40x40), '
        'memory as N^1.00 (N^1.00 at the end; 3 sizes, 10x10 to 40x40)'
    ]
    assert growth_lines(rows[:2]) == []


def test_figure_of_a_sweep(tmp_path):
    """Time and memory of one input on both modes' panels, with their exponents; what was not measured has no point."""
    rows = [row('a', n, n**4 * 2, 10 + n**2 * 2, batch=2) for n in (40, 10, 20)]
    rows += [row('a', 80, '', '', status='out of memory', batch=2), row('b', 10, 3, '', batch=2)]
    rows += [{**row('a', 10, 7, 20, batch=2), 'mode': 'training'}]
    figure = draw_growth(rows, tmp_path / 'new' / 'growth.png')
    assert (tmp_path / 'new' / 'growth.png').read_bytes().startswith(b'\x89PNG')
    drawn = [{line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()} for axes in figure.axes]
    assert drawn == [
        {'a (N^2.00, at the end N^2.00)': [[n**2, n**4] for n in (10, 20, 40)], 'b': [[100, 1.5]]},
        {'a (N^1.00, at the end N^1.00)': [[n**2, n**2] for n in (10, 20, 40)]},
        {'a': [[100, 3.5]]},
        {'a': [[100, 5]]},
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == ['pixels'] * 4
    det = ['configs/det/mask-rcnn_swin-t_fpn_1x_coco.py', 'configs/det/mask-rcnn_lisa-t_fpn_1x_coco.py']
    axes, *_ = draw_growth([row(name, 10, 7, 20) for name in det], tmp_path / 'b.png').axes
    assert {line.get_label(): line.get_color() for line in axes.get_lines()} == {'swin-t': OTHERS[0], 'lisa-t': LISA}
    other = 'configs/det/cascade-mask-rcnn_lisa-t_fpn_3x_coco.py'
    axes, *_ = draw_growth([row(name, 10, 7, 20) for name in (det[1], other)], tmp_path / 'b.png').axes
    assert [line.get_color() for line in axes.get_lines()] == [LISA, OTHERS[0]]
    assert all((axes.get_xscale(), axes.get_yscale()) == ('log', 'log') for axes in figure.axes)
    with pytest.raises(UserError, match='nothing was measured'):
        draw_growth(rows[3:4], tmp_path / 'none.png')


def test_table_of_rows():
    more = dict(parameters='28170000', macs='4530000000', per_second='7.89', iqr_ms='0.5')
    rows = [
        row('b', 224, 126.7, 250.25, **more, ratio='1.2', ratio_iqr='0.04'),
        row('a', 224, 1234.5, 250.25, **more),
        row('b', 32, 0.012, '', **more),
        row('b', 448, '', '', status='out of memory', parameters='28170000', macs=''),
    ]
    assert table(rows).splitlines()[2:] == [
        '| b | 32x32 | inference | 1 | 28.17 M | 4.530 G | 0.0120 ± 0.500 | 7.89 |  |  |',
        '| b | 224x224 | inference | 1 | 28.17 M | 4.530 G | 127 ± 0.500 | 7.89 | 250.2 MiB | 1.200 ± 0.040 |',
        '| a | 224x224 | inference | 1 | 28.17 M | 4.530 G | 1234 ± 0.500 | 7.89 | 250.2 MiB |  |',
        '| b | 448x448 | inference | 1 | 28.17 M |  | out of memory |  |  |  |',
    ]


# ----------------------------------------------------------------------------------------- candidates of the frameworks


def test_backbones_of_every_source_are_built():
    config = str(REPO / 'configs' / 'det' / 'mask-rcnn_lisa-p_fpn_mini-coco.py')
    by_class, by_config, by_override, by_timm = (
        Candidate(spec)
        for spec in ('LiSA:arch=pico', config, f'{config}:model.backbone.arch=tiny', 'timm.resnet18:features_only=True')
    )
    assert [c.kind for c in (by_class, by_config, by_override, by_timm)] == ['backbone', 'backbone', 'backbone', 'timm']
    assert by_class.input_shape((64, 96)) == (3, 64, 96)
    assert by_class.build((64, 64)).arch == by_config.build((64, 64)).arch
    assert by_override.build((64, 64)).arch['embed_dims'][0] == 64
    assert by_override.label == 'configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py:model.backbone.arch=tiny'
    pytest.importorskip('timm')
    assert [y.shape[1] for y in by_timm.build((64, 64))(torch.zeros(1, 3, 64, 64))] == [64, 64, 128, 256, 512]


def test_batch_norms_of_several_gpus_run_on_one():
    pytest.importorskip('mmdet')
    model = Candidate("mmdet.ResNet:depth=18,norm_cfg={'type': 'SyncBN'}").build((32, 32))
    make_pass(model, (3, 32, 32), 2, 'training', 'fp32', 'cpu')()
    assert model.conv1.weight.grad.abs().sum() > 0  # forward and backward ran


def test_whole_model_and_frames_of_a_video():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmaction')
    config = str(REPO / 'configs' / 'det' / 'mask-rcnn_lisa-p_fpn_mini-coco.py')
    backbone, whole = (Candidate(config, whole=flag).build((64, 64)) for flag in (False, True))
    assert Candidate(config, whole=True).kind == 'model'
    assert count_macs(whole, (1, 3, 64, 64)) > 2 * count_macs(backbone, (1, 3, 64, 64))
    # In mmaction2's Recognizer2D the frames are so many images.
    video = Candidate(str(REPO / 'configs' / 'action' / 'lisa-p_1x1x1_mini-ssv2-rgb.py'))
    assert video.input_shape((3, 64, 64)) == (3, 3, 64, 64)
    frames = video.build((3, 64, 64))
    assert count_macs(frames, (1, 3, 3, 64, 64)) == pytest.approx(
        3 * count_macs(frames, (1, 3, 1, 64, 64)), rel=0.01
    )  # the RPEs are transformed once for all
    with pytest.raises(UserError, match=r'is for videos \(Recognizer2D\); add --frames'):
        video.build((64, 64))


@pytest.mark.parametrize(
    ('spec', 'whole', 'sentence'),
    [
        ('LisAttention', False, "'LisAttention' is unknown; did you mean 'LiSAttention'"),
        ('mmdett.ResNet', False, "'mmdett.ResNet' is unknown; did you mean 'mmdet.ResNet'"),
        ('mmdet.VisionTransformer', False, "unknown; did you mean 'mm(seg|pretrain|action).VisionTransformer'"),
        ('LiSAttention:from=padded', False, "option 'from' is unknown to LiSAttention"),
        ('LiSA:arch=pica', False, r"arch 'pica' is unknown to LiSA \(did you mean 'pico'"),
        ('LiSA:arc=pico', False, 'arc'),
        ('nowhere.py', False, 'config nowhere.py does not exist'),
        ('LiSA', True, "--whole takes config files, and 'LiSA' is a class"),
        ('LiSA:drop_path_rate=x', False, r"candidate 'LiSA:drop_path_rate=x' cannot be built \(.*\); mend its options"),
        ('timm.resnet1', False, "no model 'resnet1'; did you mean 'resnet18'"),
    ],
)
def test_what_cannot_be_built_is_told(spec, whole, sentence):
    for package in {'t': ['timm'], 'm': ['mmdet', 'mmseg']}.get(spec[0], []):
        pytest.importorskip(package)
    with pytest.raises(UserError, match=sentence):
        Candidate(spec, whole).build((32, 32))


def test_memory_that_runs_out_while_building_is_no_fault_of_the_options(monkeypatch):
    def build(self, shape):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(Candidate, '_build', build)
    with pytest.raises(RuntimeError, match='allocate'):
        Candidate('NoMixing').build((4, 4))


def test_config_without_backbone(tmp_path):
    (tmp_path / 'no_backbone.py').write_text("model = dict(type='Net')\n")
    (tmp_path / 'no_model.py').write_text('train_cfg = None\n')
    with pytest.raises(UserError, match=r'no_backbone\.py has no model\.backbone; add --whole'):
        Candidate(str(tmp_path / 'no_backbone.py')).build((32, 32))
    with pytest.raises(UserError, match=r'no_model\.py has no model'):
        Candidate(str(tmp_path / 'no_model.py')).build((32, 32))


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command_line(tmp_path):
    """Two candidates of one backbone, swept over three sizes."""
    first, second = 'LiSA:arch=pico', 'LiSA:arch=pico,norm=BN'
    done = run_tool(
        'benchmark.py',
        *(first, second, '--sweep', 32, 96, 64, '--batch', 2, '--dtype', 'bf16', '--threads', 1),
        *('--rounds', 3, '--warmup', 1, '--out', 'out', '--figure', 'growth.svg'),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '<svg' in (tmp_path / 'growth.svg').read_text()
    (path,) = (tmp_path / 'out').iterdir()
    assert path.name == f'benchmark-inference-bf16-cpu1-torch{VERSION}-sweep.csv'
    rows, model = read_rows(path), Candidate(second).build((32, 32))
    assert [(r['candidate'], r['input']) for r in rows] == [
        (c, f'{n}x{n}') for n in (32, 64, 96) for c in (first, second)
    ]
    for r in rows:
        side = int(r['input'].partition('x')[0])
        assert r['macs'] == str(count_macs(model, (1, 3, side, side)))
        assert (r['kind'], r['dtype'], r['status'], r['uncounted']) == ('backbone', 'bf16', '', '')
        assert (r['batch'], r['rounds'], r['ratio_to']) == ('2', '3', first)
        assert float(r['ratio']) == 1.0 if r['candidate'] == first else float(r['ratio']) > 0
        assert f'| {r["candidate"]} | {r["input"]} | inference | 2 | 0.97 M |' in done.stdout
    assert rows[1]['parameters'] == str(sum(p.numel() for p in model.parameters()))
    assert f'{second}, inference, batch 2: time as N^' in done.stdout


def test_the_command_line_tells_what_is_wrong(tmp_path):
    done = run_tool('benchmark.py', 'NoMixing', '--shape', '4', '0', '--out', tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == 'error: shape 4x0 is not positive; give sizes of at least 1\n'
    done = run_tool('benchmark.py', 'NoMixing', '--figure', 'growth.png', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith('error: --figure draws how time and memory grow')
