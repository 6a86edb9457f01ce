"""Places to write to are refused before the work."""

import pytest

from lisa_backbone.errors import UserError
from lisa_backbone.figures import check_figure
from lisa_backbone.paths import check_file, check_folder


def test_places_that_can_be_written_are_left_as_they_are(tmp_path):
    check_folder(tmp_path / 'a' / 'b', '--out')
    check_file(tmp_path / 'a' / 'b.csv', '--out')
    check_figure(tmp_path / 'a' / 'b.png', '--figure')
    (tmp_path / 'b.csv').write_text('1')
    check_file(tmp_path / 'b.csv', '--out')
    assert [path.name for path in tmp_path.iterdir()] == ['b.csv']


def test_places_that_cannot_be_written_are_told(tmp_path, monkeypatch):
    file = tmp_path / 'file'
    file.write_text('1')
    with pytest.raises(UserError, match=r'work dir .*/x cannot be made: .*file is a file; give another --work-dir'):
        check_folder(file / 'x', 'work dir', '--work-dir')
    with pytest.raises(UserError, match=r'--out .*file cannot be made: .*file is a file; give another --out'):
        check_folder(file, '--out')
    with pytest.raises(UserError, match=r'--out .* is a folder; name a file'):
        check_file(tmp_path, '--out')
    with pytest.raises(UserError, match=r'file is a file; give another --out'):
        check_file(file / 'a.csv', '--out')
    monkeypatch.setattr('os.access', lambda path, mode: False)  # as of a user that is not the owner
    with pytest.raises(UserError, match=r'--figure .*a\.png: the folder .* cannot be written .*read-only for you'):
        check_figure(tmp_path / 'a.png', '--figure')
