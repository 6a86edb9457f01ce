"""Saving figures."""

import pytest
from matplotlib.figure import Figure

from lisa_backbone.figures import save


@pytest.mark.parametrize('name', ['a.png', 'a.svg'])
def test_a_figure_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, name):
    path = tmp_path / 'folder' / name
    save(Figure(), path)
    before = path.read_bytes()
    assert before.startswith(b'\x89PNG' if name == 'a.png' else b'<?xml')

    def interrupted(figure, file, **options):
        file.write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, 'savefig', interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(Figure(), path)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [name]
