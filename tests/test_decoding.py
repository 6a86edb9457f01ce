"""The comparison of video decoders: what it makes, and what it finds out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lisa_backbone.data import decoding
from lisa_backbone.data.decoding import DECODERS, Row, _Clip, frame_number, measure, numbered_frame, table, write
from lisa_backbone.errors import UserError

PYAV = 'PyAV (OpenVideo, FetchFrames)'


@pytest.mark.parametrize('number', [0, 1, 299, 682, 1023])
def test_a_frame_states_its_number(number):
    frame = numbered_frame(number, (256, 64), np.random.default_rng(0))
    assert frame.shape == (64, 256, 3)
    assert frame_number(frame) == number


def test_a_decoder_that_is_one_frame_off_is_found(tmp_path, monkeypatch):
    clip = _Clip('.mp4', 'libx264', {'g': '12'}, 2, 20, (256, 64))
    monkeypatch.setattr(decoding, 'CLIPS', {'small': clip})
    real = DECODERS[PYAV]
    late = real._replace(fetch=lambda path, indices: real.fetch(path, [(i + 1) % 40 for i in indices]))
    absent = real._replace(module='no_such_decoder')
    monkeypatch.setattr(decoding, 'DECODERS', {PYAV: real, 'late': late, 'absent': absent})
    monkeypatch.setattr(decoding, '_memory', lambda name, path: 0.0)
    (tmp_path / 'libx264_0.mp4').write_bytes(b'cut off')  # what is broken is made again
    rows, passed_over = measure(tmp_path, count=1, rounds=1, show=False)
    assert passed_over == {'absent': 'not installed'}
    assert [(row.sampling, row.frames) for row in rows if row.decoder == PYAV] == [
        ('dense', 8), ('uniform', 8), ('dense', 16), ('uniform', 16),
    ]  # fmt: skip
    assert {row.exact for row in rows if row.decoder == PYAV} == {1.0}
    assert {row.exact for row in rows if row.decoder == 'late'} == {0.0}
    assert {row.relative for row in rows if row.decoder == PYAV} == {1.0}


def test_results_are_written_and_shown(tmp_path):
    rows = [
        Row('small', 'dense', 8, PYAV, 12.25, 1.0, 1.0, 7.4),
        Row('small', 'dense', 8, 'OpenCV', 6.0, 0.5, 0.25, 9),
    ]
    write(rows, tmp_path / 'out.csv')
    head, first, _ = (tmp_path / 'out.csv').read_text().splitlines()
    assert head.startswith('clip,sampling,frames,decoder,version')
    assert first.startswith(f'small,dense,8,"{PYAV}",')
    assert ',12.25,1.000,1.0000,7,' in first
    assert '| OpenCV | 0.50 | 25.0% | 9 MiB |' in table(rows)


def test_a_file_of_another_kind_is_not_replaced(tmp_path):
    mine = tmp_path / 'mine.csv'
    mine.write_text('name,phone\nAda,123\n')
    with pytest.raises(UserError, match=r"mine\.csv has no column 'clip', so it is a file of another kind"):
        write([Row('small', 'dense', 8, PYAV, 12.25, 1.0, 1.0, 7.4)], mine)
    tool = Path(__file__).parents[1] / 'tools' / 'benchmark_decoding.py'
    done = subprocess.run(
        [sys.executable, str(tool), '--out', 'mine.csv'], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)  # before anything is measured
    assert mine.read_text() == 'name,phone\nAda,123\n'


def test_a_failure_leaves_the_results_of_before(tmp_path):
    (tmp_path / 'out.csv').write_text('before')
    with pytest.raises(KeyError):
        write([Row('small', 'dense', 8, 'no such decoder', 1.0, 1.0, 1.0, 1)], tmp_path / 'out.csv')
    assert (tmp_path / 'out.csv').read_text() == 'before'
