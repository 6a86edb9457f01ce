"""Rows of a CSV file: whole after a kill, and refused where they are of another kind."""

import errno
import subprocess
import sys

import pytest

from lisa_backbone.errors import UserError, exit_with_sentence
from lisa_backbone.rows import append_rows, read_rows, refuse_known


def test_rows_are_added_and_replaced(tmp_path):
    path = tmp_path / 'new' / 'a.csv'
    assert read_rows(path, ['a']) == []
    append_rows(path, [{'a': 1, 'b': 'é'}])
    append_rows(path, [{'a': 2, 'b': 'y'}])
    assert read_rows(path, ['a']) == [{'a': '1', 'b': 'é'}, {'a': '2', 'b': 'y'}]
    append_rows(path, [{'a': 3, 'b': 'z'}], replaced=read_rows(path)[:1])
    assert [row['a'] for row in read_rows(path)] == ['2', '3']
    append_rows(path, [{'a': 4, 'b': 'w', 'new': 5}])  # a column of later
    assert [row['new'] for row in read_rows(path)] == ['', '', '5']
    append_rows(path, [{'c': 1}], replaced=read_rows(path))
    assert read_rows(path) == [{'c': '1'}]
    assert [one.name for one in path.parent.iterdir()] == ['a.csv']


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'a,b\n1,2\n3\n', 'row 2, has not as many fields'),
        (b'a\n1,2\n', 'row 1, has not as many fields'),
        (b'\xff\xfe', 'is no CSV file'),
        (b'c,d\n1,2\n', "has no column 'a', so it is a file of another kind"),
        (b'a line of notes', "has no column 'a', so it is a file of another kind"),
    ],
)
def test_files_of_another_kind_are_refused_and_left(tmp_path, content, said):
    path = tmp_path / 'a.csv'
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_rows(path, ['a'])
    with pytest.raises(UserError, match=r'a\.csv'):
        append_rows(path, [{'a': 1, 'b': 2}])
    assert path.read_bytes() == content


def test_what_is_known_is_refused(tmp_path):
    path = tmp_path / 'a.csv'
    refuse_known(path, {'a': 1})
    append_rows(path, [{'a': 1, 'b': ''}])
    refuse_known(path, {'a': 2, 'b': ''})
    with pytest.raises(UserError, match=r'a\.csv holds a 1 already; name another --out'):
        refuse_known(path, {'a': 1, 'b': ''})


@pytest.mark.parametrize('place', ['folder', 'file/below', 'absent/below'])
def test_a_path_that_cannot_be_used_is_one_sentence(tmp_path, capsys, place):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit) as left:
        exit_with_sentence(lambda: (tmp_path / place).write_text('x') and None)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith(f'error: {tmp_path / place} cannot be used (')
    assert said.count('\n') == 1


def test_a_full_disk_is_one_sentence(tmp_path, capsys, monkeypatch):
    path = tmp_path / 'a.csv'
    append_rows(path, [{'a': 1}])

    def full(self, rows):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('csv.DictWriter.writerows', full)
    with pytest.raises(SystemExit) as left:
        exit_with_sentence(lambda: append_rows(path, [{'a': 2}]))
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith('error: the disk cannot be used (No space left on device)')
    assert [one.name for one in tmp_path.iterdir()] == ['a.csv']  # no draft is left behind
    assert read_rows(path) == [{'a': '1'}]


def test_errors_of_the_program_keep_their_traceback():
    for error in (OSError('no file is named'), ValueError('a bug')):

        def main(error=error):
            raise error

        with pytest.raises(type(error)):
            exit_with_sentence(main)


def test_several_processes_add_to_one_file(tmp_path):
    code = """
import sys
from pathlib import Path
from lisa_backbone.rows import append_rows
for number in range(40):
    append_rows(Path(sys.argv[1]), [{'who': sys.argv[2], 'number': number}])
"""
    path = tmp_path / 'a.csv'
    started = [subprocess.Popen([sys.executable, '-c', code, str(path), who]) for who in 'ab']
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    rows = [(row['who'], int(row['number'])) for row in read_rows(path)]
    assert sorted(rows) == [(who, number) for who in 'ab' for number in range(40)]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """As a cluster's may be: rows are added all the same."""

    def flock(file, operation):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr('fcntl.flock', flock)
    append_rows(tmp_path / 'a.csv', [{'a': 1}])
    assert read_rows(tmp_path / 'a.csv') == [{'a': '1'}]
    assert [path.name for path in tmp_path.iterdir()] == ['a.csv']
