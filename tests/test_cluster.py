"""Jobs: on submitit's local executor, on programs that stand for those of Slurm, and the batch script that it gets."""

import os
import stat
import sys
import threading
import time

import pytest
import submitit
from test_jobs import ended

from lisa_backbone import cluster
from lisa_backbone.cluster import Jobs, minutes_of, slurm_parameters
from lisa_backbone.errors import UserError
from lisa_backbone.jobs import work_through

# Each stands for a program of Slurm. {place} holds: state, what sacct says of the job; refuse and hold, whether sbatch
# takes no job or starts none.
SLURM = {
    'sbatch': """
        if [ -e {place}/refuse ]; then echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1; fi
        cp "$1" {place}/script.sh
        echo $$ > {place}/id
        export SLURM_JOB_ID=$$ SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
        [ -e {place}/hold ] || setsid sh "$1" > {place}/batch.txt 2>&1 &
        echo "Submitted batch job $$"
    """,
    'srun': """
        while :; do case "$1" in --output) out=$2; shift 2;; -*) shift;; *) break;; esac; done
        exec "$@" > $(echo "$out" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/") 2>&1
    """,
    'sacct': """
        echo "JobID|State|NodeList"
        echo "$(cat {place}/id)|$(cat {place}/state)|node1"
    """,
    'scancel': """
        echo "$1" >> {place}/cancelled
        echo 'CANCELLED by 1000' > {place}/state
    """,
}
SLEEP = 'echo $$; exec sleep 60'


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cluster, 'POLL', 0.1)
    monkeypatch.setattr(submitit.Job, '_results_timeout_s', 0)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of programs that stand for Slurm, at the head of the path."""
    place = tmp_path / 'slurm'
    place.mkdir()
    for name, script in SLURM.items():
        (place / name).write_text('#!/bin/sh' + script.format(place=place))
        (place / name).chmod(stat.S_IRWXU)
    (place / 'state').write_text('RUNNING')
    monkeypatch.setenv('PATH', f'{place}{os.pathsep}{os.environ["PATH"]}')
    return place


def local(tmp_path, time='1:00:00'):
    return Jobs(tmp_path / 'jobs', slurm_parameters([f'time={time}']), 3, 'local')


def sh(script):
    return ['/bin/sh', '-c', script]


# ----------------------------------------------------------------------------------------------- on the local executor


def test_output_threads_and_failures(tmp_path, monkeypatch):
    """What was in the log stays, and what was said there before is no reason of a failure."""
    monkeypatch.setenv('SLURM_JOB_ID', '5')  # as in a sweep that is itself a job: it hands nothing of that down
    monkeypatch.setenv('SLURM_MEM_PER_CPU', '100')
    jobs, log = local(tmp_path), tmp_path / 'logs' / 'log.txt'
    outcome = jobs.run(sh('echo $OMP_NUM_THREADS $MKL_NUM_THREADS "<$SLURM_MEM_PER_CPU>"'), log)
    assert (outcome.status, outcome.sentence) == (0, '')
    assert log.read_text() == '3 3 <>\n'
    assert os.environ['SLURM_MEM_PER_CPU'] == '100'
    outcome = jobs.run(sh('echo "error: no such file; mend it" >&2; echo more; exit 2'), log)
    assert (outcome.status, outcome.sentence) == (2, 'no such file; mend it')
    assert log.read_text() == '3 3 <>\nerror: no such file; mend it\nmore\n'
    outcome = jobs.run(sh('kill -9 $$'), log)
    assert outcome.status == -9
    assert outcome.sentence.startswith('was killed by SIGKILL, as the system does where memory runs out; see')
    outcome = jobs.run(sh(SLEEP), log, limit=1)
    assert outcome.sentence == f'took more than 1 seconds and was ended; see {log}'
    assert ended(int(log.read_text().split()[-1]))


def test_job_that_goes_without_a_result(tmp_path):
    """Its process was killed from outside, not the command."""
    jobs, log = local(tmp_path), tmp_path / 'log.txt'
    outcome = jobs.run(sh('kill -9 $PPID'), log)
    assert outcome.status == 1
    assert outcome.sentence.startswith('its job ')
    assert ' ended as FINISHED without a result; see ' in outcome.sentence
    (tmp_path / 'folder').mkdir()
    outcome = jobs.run(sh('true'), tmp_path / 'folder')
    assert outcome.sentence.startswith('IsADirectoryError')


def test_time_limit(tmp_path, monkeypatch):
    """The signal that a scheduler sends shortly before comes from the command itself here."""
    jobs, log = local(tmp_path, '1'), tmp_path / 'log.txt'
    outcome = jobs.run(sh(f'kill -USR2 $PPID; {SLEEP}'), log)
    assert outcome.status == 1
    assert outcome.sentence == (
        f'its job reached its time limit of 60 seconds without a checkpoint since it started; give it more with '
        f'--slurm time=...; see {log}'
    )
    # one that saves a checkpoint goes on, and the signal does not end it
    goes_on = (
        f'echo begin; if [ -e {tmp_path}/saved ]; then kill -USR2 $$; echo end; exit; fi; touch {tmp_path}/saved; '
        f'echo "Saving checkpoint at 1 epochs"; echo $$ > {tmp_path}/pid; kill -USR2 $PPID; exec sleep 60'
    )
    log.unlink()
    outcome = jobs.run(sh(goes_on), log)
    assert (outcome.status, outcome.sentence) == (0, '')
    assert log.read_text() == 'begin\nSaving checkpoint at 1 epochs\nbegin\nend\n'
    assert ended(int((tmp_path / 'pid').read_text()))
    monkeypatch.setattr(cluster, 'RESUBMISSIONS', 1)
    log.unlink()
    script = 'echo "Saving checkpoint at 40 iterations"; kill -USR2 $PPID; exec sleep 60'
    outcome = jobs.run(sh(script), log)
    assert log.read_text() == 'Saving checkpoint at 40 iterations\n' * 2
    assert outcome.sentence == (
        '2 jobs of it reached their time limit of 60 seconds; the same command again goes on from the latest checkpoint'
    )


def test_preempted_job_is_queued_again(tmp_path):
    """Before the time is up, the same signal means that the job has to make room."""
    jobs, log = local(tmp_path, '2-0'), tmp_path / 'log.txt'
    script = f'echo begin; [ -e {tmp_path}/seen ] && exit; touch {tmp_path}/seen; kill -USR2 $PPID; exec sleep 60'
    outcome = jobs.run(sh(script), log)
    assert (outcome.status, log.read_text()) == (0, 'begin\nbegin\n')


def test_interrupt_cancels_what_runs_and_submits_nothing_more(tmp_path):
    jobs = local(tmp_path)

    def do(item):
        return jobs.run(sh(f'trap "" INT; {SLEEP}'), tmp_path / f'{item}.txt')  # deaf to the interrupt

    def watch():
        log = tmp_path / '0.txt'
        if log.exists() and log.read_text():
            raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        work_through([0, 1, 2], do, lambda *pair: None, jobs, watch=watch)
    assert time.perf_counter() - start < 30
    assert ended(int((tmp_path / '0.txt').read_text()))
    assert not (tmp_path / '2.txt').exists()
    with pytest.raises(KeyboardInterrupt):
        do(3)


# ------------------------------------------------------------------------------------------------------------ for Slurm


def test_batch_script(slurm, tmp_path):
    pairs = ['partition=gpu', '--time=1-12', 'account=me', 'cpus-per-task=8', 'qos=high', 'constraint=a100', 'mem=64G']
    jobs = Jobs(tmp_path / 'jobs', slurm_parameters([*pairs, 'reservation=friday'], 4), 2)
    log = tmp_path / 'log.txt'
    outcome = jobs.run(sh('echo $OMP_NUM_THREADS'), log)
    assert (outcome.status, outcome.sentence) == (0, '')
    assert log.read_text() == '2\n'
    lines = (slurm / 'script.sh').read_text().splitlines()
    options = dict(line.removeprefix('#SBATCH --').split('=', 1) for line in lines if line.startswith('#SBATCH'))
    del options['output'], options['open-mode'], options['wckey']
    assert options == {
        'partition': 'gpu',
        'time': '2160',
        'account': 'me',
        'cpus-per-task': '8',
        'qos': 'high',
        'constraint': 'a100',
        'mem': '64G',
        'reservation': 'friday',
        'gpus-per-node': '4',
        'nodes': '1',
        'ntasks-per-node': '1',
        'job-name': 'leaderboard',
        'signal': 'USR2@90',
    }
    (srun,) = (line for line in lines if line.startswith('srun'))
    assert ' --cpus-per-task=8 ' in srun
    assert f'{sys.executable} -u -m submitit.core._submit {tmp_path}/jobs' in srun


def test_refused_job(slurm, tmp_path):
    (slurm / 'refuse').touch()
    outcome = Jobs(tmp_path / 'jobs', slurm_parameters(['time=1:00']), 1).run(sh('true'), tmp_path / 'log.txt')
    assert outcome.status == 1
    assert outcome.sentence == 'the job was not taken: sbatch: error: invalid partition specified: gpu'


@pytest.mark.parametrize(
    ('state', 'sentence'),
    [
        ('TIMEOUT', 'its job reached its time limit of 60 minutes without a checkpoint'),
        ('OUT_OF_MEMORY', 'its job {id} ended as OUT_OF_MEMORY without a result; ask for more with --slurm mem=...; '),
        ('CANCELLED by 1000', 'its job {id} ended as CANCELLED without a result; see {folder}/{id}_0_log.out'),
    ],
)
def test_job_that_slurm_ends(slurm, tmp_path, state, sentence):
    (slurm / 'hold').touch()
    (slurm / 'state').write_text(state)
    outcome = Jobs(tmp_path / 'jobs', slurm_parameters(['time=60']), 1).run(sh('true'), tmp_path / 'log.txt')
    number = (slurm / 'id').read_text().strip()
    assert outcome.sentence.startswith(sentence.format(id=number, folder=tmp_path / 'jobs'))
    assert (slurm / 'cancelled').exists() == (state != 'TIMEOUT')  # Slurm may start it once more by itself


def test_job_in_the_queue_is_cancelled(slurm, tmp_path):
    (slurm / 'hold').touch()
    (slurm / 'state').write_text('PENDING')
    jobs, told = Jobs(tmp_path / 'jobs', slurm_parameters(['time=60']), 1), []

    def run():
        try:
            told.append(jobs.run(sh('true'), tmp_path / 'log.txt'))
        except KeyboardInterrupt as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 30
    while not (slurm / 'id').exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    jobs.stop()
    thread.join()
    assert [type(one) for one in told] == [KeyboardInterrupt]
    assert (slurm / 'cancelled').read_text() == (slurm / 'id').read_text()


def test_slurm_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match=r'Slurm is not here \(sbatch, srun, sacct, scancel not found\); start'):
        Jobs(tmp_path / 'jobs', slurm_parameters(['time=60']), 1)
    assert not (tmp_path / 'jobs').exists()


def test_gres_replaces_the_number_of_gpus():
    found = slurm_parameters(['time=60', 'gres=gpu:a100:4', 'job-name=mine'], 4)
    assert (found['slurm_gres'], found['name'], 'gpus_per_node' in found) == ('gpu:a100:4', 'mine', False)


@pytest.mark.parametrize(
    ('pairs', 'sentence'),
    [
        (['partition=gpu'], '--slurm has no time, after which a job is ended; add one such as time=24:00:00'),
        (['time=60', 'gpu'], "--slurm 'gpu' is not KEY=VALUE"),
        (['time=60', 'partition='], "--slurm 'partition=' is not KEY=VALUE"),
        (['time=60', 'particion=gpu'], "--slurm 'particion' is unknown; did you mean 'partition'?; there are account,"),
        (['time=60', 'gpus=4'], "--slurm 'gpus' is unknown; --gpus says how many GPUs; there are account"),
        (['time=60', 'cpus-per-task=many'], '--slurm cpus_per_task=many is not a number of processors'),
        (['time=soon'], '--slurm time=soon is not a time'),
    ],
)
def test_options_that_cannot_be_used(pairs, sentence):
    with pytest.raises(UserError) as caught:
        slurm_parameters(pairs)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ('text', 'minutes'),
    [
        ('90', 90),
        ('90:01', 91),
        ('24:00:00', 1440),
        ('0:00:30', 1),
        ('2-0', 2880),
        ('1-12', 2160),
        ('1-12:30', 2190),
        ('1-12:30:01', 2191),
    ],
)
def test_times_are_read_as_sbatch_does(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize('text', ['0', '1:2:3:4', '1-2:3:4:5', '-1', '1d', 'UNLIMITED', '1:', '²'])
def test_what_is_no_time(text):
    with pytest.raises(UserError, match='is not a time'):
        minutes_of(text)
