"""Bad segmentation sets, each told in one sentence."""

import numpy as np
import pytest
from PIL import Image, ImageFile

from lisa_backbone.data import checks_common
from lisa_backbone.data.checks_seg import check_segmentation_data
from lisa_backbone.errors import UserError


@pytest.fixture
def ade(tmp_path):
    """Four pairs in the layout of the challenge, with labels 0 (unlabelled) to 3."""
    rng = np.random.default_rng(0)
    for part in ('images', 'annotations'):
        (tmp_path / part / 'training').mkdir(parents=True)
    for number in range(4):
        name = f'ADE_train_{number:08d}'
        pixels = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'images' / 'training' / f'{name}.jpg')
        save_label(tmp_path, number, rng.integers(0, 4, (24, 32), dtype=np.uint8))
    return tmp_path


def image(root, number=1):
    return root / 'images' / 'training' / f'ADE_train_{number:08d}.jpg'


def label(root, number=1):
    return root / 'annotations' / 'training' / f'ADE_train_{number:08d}.png'


def save_label(root, number, pixels):
    Image.fromarray(pixels).save(label(root, number))


def check(root, **options):
    options = {'classes': 3, 'reduce_zero_label': True, **options}
    return check_segmentation_data(root / 'images' / 'training', root / 'annotations' / 'training', **options)


def refuse(root, *words, **options):
    with pytest.raises(UserError) as caught:
        check(root, **options)
    sentence = str(caught.value)
    assert '\n' not in sentence
    for word in words:
        assert str(word) in sentence


def test_a_good_set_is_counted(ade):
    report = check(ade)
    assert (report.images, report.decoded, report.notes) == (4, 4, ())
    assert check(ade, decode='none').decoded == 0


def test_255_is_ignored(ade):
    save_label(ade, 1, np.full((24, 32), 255, np.uint8))
    assert check(ade).images == 4


def test_an_image_without_label_map(ade):
    label(ade).unlink()
    refuse(ade, image(ade), 'has no label map', label(ade), '1 of 4', decode='none')


def test_a_label_map_without_image(ade):
    image(ade).unlink()
    refuse(ade, label(ade), 'has no image', image(ade), '1 of 4')


def test_a_list_names_the_images(ade):
    listed = ade / 'training.txt'
    listed.write_text('ADE_train_00000000\nADE_train_00000003\n')
    label(ade, 1).unlink()  # not in the list
    assert check(ade, ann_file=listed).images == 2
    listed.write_text('ADE_train_00000009\n')
    refuse(ade, 'ADE_train_00000009.jpg', 'missing', ann_file=listed)


def test_a_label_map_of_another_size(ade):
    save_label(ade, 1, np.zeros((32, 24), np.uint8))
    refuse(ade, label(ade), '24 x 32', '32 x 24')


def test_headers_tell_of_pairs_that_are_not_decoded(ade, monkeypatch):
    monkeypatch.setattr(checks_common, 'SAMPLE', 2)  # the first and the last
    loaded, load = [], ImageFile.ImageFile.load
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, 'load', lambda opened: loaded.append(opened) or load(opened))
        assert check(ade).decoded == 2
        few = len(loaded)
        assert few > 0
        check(ade, decode='all')
    assert len(loaded) == 3 * few  # four pairs after two
    Image.fromarray(np.zeros((32, 24), np.uint8)).save(label(ade))
    refuse(ade, label(ade), '24 x 32', '32 x 24')
    assert check(ade, decode='none').decoded == 0
    Image.fromarray(np.ones((24, 32), np.uint16)).save(label(ade))
    refuse(ade, label(ade), 'not of 8 bits')
    Image.fromarray(np.ones((24, 32, 3), np.uint8)).save(label(ade))
    refuse(ade, label(ade), '3 channels')
    label(ade).write_bytes(b'')
    refuse(ade, f'the label map {label(ade)} is empty')
    save_label(ade, 1, np.full((24, 32), 9, np.uint8))  # values are not in the header
    assert check(ade).images == 4
    image(ade).write_bytes(b'<html>')
    refuse(ade, image(ade), 'no image that can be read')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (24, 32)).save(image(ade), exif=exif)
    assert check(ade).images == 4  # turned, it is 32 x 24 as its label map


def test_values_out_of_range(ade):
    pixels = np.ones((24, 32), np.uint8)
    pixels[3, 4] = 4
    save_label(ade, 1, pixels)
    refuse(ade, label(ade), 'the value 4', '3 classes are 0 (unlabelled) to 3')
    assert check(ade, classes=4).images == 4
    assert check(ade, classes=5, reduce_zero_label=False).images == 4  # 0 to 4
    refuse(ade, 'the value 4', '4 classes are 0 to 3', classes=4, reduce_zero_label=False)


def test_a_colour_label_map(ade):
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(label(ade))
    refuse(ade, label(ade), '3 channels', 'one channel')


def test_a_16_bit_label_map(ade):
    Image.fromarray(np.ones((24, 32), np.uint16)).save(label(ade))
    refuse(ade, label(ade), 'not of 8 bits')


def test_a_palette_holds_class_numbers(ade):
    picture = Image.fromarray(np.full((24, 32), 2, np.uint8), 'P')
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(label(ade))
    assert check(ade).images == 4


def test_truncated_files(ade):
    content = label(ade).read_bytes()
    label(ade).write_bytes(content[:-40])
    refuse(ade, 'label map', label(ade), 'truncated')
    label(ade).write_bytes(content)
    image(ade).write_bytes(image(ade).read_bytes()[:-40])
    refuse(ade, 'the image', image(ade), 'truncated')


def test_no_pixel_has_a_class(ade):
    for number in range(4):
        save_label(ade, number, np.zeros((24, 32), np.uint8))
    refuse(ade, 'no pixel', 'has a class')


def test_other_suffixes_find_nothing(ade):
    refuse(ade, 'no image with the suffix .png', img_suffix='.png')
