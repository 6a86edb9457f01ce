"""Bad data sets, each told in one sentence."""

import io
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile
from pycocotools import mask as coco_mask

from lisa_backbone.data import checks, checks_common
from lisa_backbone.data.checks import check_detection_data, explain_image_failure
from lisa_backbone.data.digits import DIGIT_NAMES
from lisa_backbone.data.mini_coco import MiniCocoParams, make_mini_coco
from lisa_backbone.errors import UserError


@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    out = tmp_path_factory.mktemp('checks') / 'mini_coco'
    make_mini_coco(out, MiniCocoParams(train=6, val=3, size=96))
    return out


def write_like_coco(root):
    """A set as the real one is: sides that differ, polygons, a crowd of uncompressed RLE, ids with gaps."""
    (root / 'annotations').mkdir(parents=True)
    (root / 'train2017').mkdir()
    rng = np.random.default_rng(0)
    images = []
    for image_id, (width, height) in {139: (64, 48), 285: (40, 60), 632: (50, 50)}.items():
        name = f'{image_id:012d}.jpg'
        low = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(root / 'train2017' / name), cv2.resize(low, (width, height)))
        images.append({'id': image_id, 'file_name': name, 'width': width, 'height': height, 'license': 1})
    crowd = np.zeros((60, 40), np.uint8)
    crowd[10:30, 5:35] = 1
    runs = np.flatnonzero(np.diff(np.r_[0, crowd.ravel(order='F'), 0])).tolist()
    runs = np.diff([0, *runs, crowd.size]).tolist()
    common = {'iscrowd': 0, 'category_id': 1}
    annotations = [
        {'id': 1768, 'image_id': 139, 'bbox': [10.0, 8.0, 20.5, 30.25], 'area': 310.0, **common,
         'segmentation': [[10.0, 8.0, 30.5, 8.0, 30.5, 38.25], [12.0, 20.0, 14.0, 20.0, 14.0, 22.0, 12.0, 22.0]]},
        {'id': 1773, 'image_id': 139, 'bbox': [40.0, 0.0, 24.01, 12.0], 'area': 120.0, **common, 'category_id': 90,
         'segmentation': [[40.0, 0.0, 64.01, 0.0, 64.01, 12.0, 40.0, 12.0]]},
        {'id': 900100000285, 'image_id': 285, 'bbox': [5, 10, 30, 20], 'area': 600, 'iscrowd': 1, 'category_id': 1,
         'segmentation': {'size': [60, 40], 'counts': runs}},
    ]  # fmt: skip
    categories = [{'id': 1, 'name': 'person'}, {'id': 90, 'name': 'toothbrush'}]
    data = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / 'instances_train2017.json').write_text(json.dumps(data))
    return root


@pytest.fixture
def coco(tmp_path):
    return write_like_coco(tmp_path / 'coco')


def paths(root, split='train'):
    return root / 'annotations' / f'instances_{split}2017.json', root / f'{split}2017'


def edit(root, change):
    file = paths(root)[0]
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def refuse(root, *said, **options):
    """Check a set, and that it is refused in one sentence that says all this."""
    options = {'need_masks': True, **options}
    with pytest.raises(UserError) as caught:
        check_detection_data(*paths(root), **options)
    sentence = str(caught.value)
    assert '\n' not in sentence
    for part in said:
        assert str(part) in sentence
    return sentence


def test_a_good_mini_set_passes(mini):
    for split, images in (('train', 6), ('val', 3)):
        report = check_detection_data(*paths(mini, split), need_masks=True, classes=DIGIT_NAMES)
        objects = len(json.loads(paths(mini, split)[0].read_text())['annotations'])
        assert (report.images, report.decoded, report.annotations, report.crowds) == (images, images, objects, 0)
        assert report.categories == DIGIT_NAMES
        assert report.notes == ()
        assert f'{images} images, {objects} objects' in str(report)


def test_a_set_like_the_real_one_passes(coco):
    report = check_detection_data(*paths(coco), need_masks=True, classes=('person', 'toothbrush'))
    assert (report.images, report.annotations, report.crowds, report.decoded) == (3, 3, 1, 3)
    assert report.categories == ('person', 'toothbrush')
    assert report.notes == ('1 of 3 images have no object',)
    assert 'note: 1 of 3' in str(report)


# ---------------------------------------------------------------------------------------------------------------------
# files
# ---------------------------------------------------------------------------------------------------------------------
def test_missing_root(tmp_path):
    refuse(tmp_path / 'coco', 'no data root', tmp_path / 'coco', 'train2017', 'docs/data.md')
    refuse(tmp_path / 'mini_coco', 'no data root', f'tools/make_mini_data.py coco --out {tmp_path / "mini_coco"}')


def test_missing_annotation_file_and_image_folder(coco):
    file, folder = paths(coco)
    folder.rename(coco / 'images')
    refuse(coco, 'no image folder', folder, 'docs/data.md')
    file.unlink()
    refuse(coco, 'no annotation file', file, 'docs/data.md')


def test_a_damaged_mini_set_is_to_be_made_anew(mini, tmp_path):
    root = tmp_path / 'anywhere'
    shutil.copytree(mini, root)
    (root / 'train2017' / '000000000002.jpg').unlink()
    command = f'tools/make_mini_data.py coco --out {root} --overwrite'
    refuse(root, '000000000002.jpg', command)
    (root / 'train2017' / '000000000002.jpg').write_bytes(b'')
    refuse(root, '000000000002.jpg', command)
    assert command in explain_image_failure(root / 'train2017' / '000000000002.jpg')
    paths(root)[0].unlink()
    refuse(root, 'no annotation file', command)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'', 'ends too early'),
        (b'{"images": [], "annotations": [', 'ends too early'),
        (b'{"images": [{"file_name": "0000', 'ends too early'),
        (b'<html>not found</html>', 'is not JSON'),
        (b'{"images": [}, "annotations": []}', 'line 1 column 13'),
        (b'\xff\xfe\x00binary\x80', 'not text'),
        (b'[1, 2]', 'holds a list'),
        (b'{"images": []}', "'images'"),
        (b'{"images": [{"id": 1}], "categories": []}', "'annotations'"),
        (b'{"images": {"1": "a"}, "annotations": [], "categories": []}', "'images'"),
        (b'{"images": [1], "annotations": [], "categories": []}', "'images'"),
    ],
)
def test_an_annotation_file_that_is_none(coco, content, said):
    paths(coco)[0].write_bytes(content)
    refuse(coco, said, paths(coco)[0])


def test_a_file_cut_anywhere_is_refused(coco):
    file = paths(coco)[0]
    whole = file.read_bytes()
    for size in range(1, len(whole) - 1, 97):
        file.write_bytes(whole[:size])
        refuse(coco, 'annotation file', file, 'fetch or write it again')


def test_the_garbage_collector_is_left_as_it_was(coco):
    import gc

    for enabled in (False, True):
        (gc.enable if enabled else gc.disable)()
        check_detection_data(*paths(coco))
        assert gc.isenabled() == enabled


# ---------------------------------------------------------------------------------------------------------------------
# tables
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_empty_lists(coco, key):
    edit(coco, lambda data: data[key].clear())
    refuse(coco, f"'{key}'", 'is empty', paths(coco)[0])


def test_a_list_of_test_images_needs_no_objects(coco):
    edit(coco, lambda data: data.pop('annotations'))
    report = check_detection_data(*paths(coco), need_annotations=False)
    assert (report.images, report.annotations, report.decoded, report.notes) == (3, 0, 3, ())
    refuse(coco, "no key 'annotations'")


def at(index, **values):
    """Change keys of an annotation."""
    return lambda data: data['annotations'][index].update(values)


def without(table, key):
    return lambda data: data[table][0].pop(key)


SHORT_RLE = coco_mask.encode(np.asfortranarray(np.eye(48, 64, dtype=np.uint8)))['counts'].decode()[:-4]
OTHER_RLE = coco_mask.encode(np.asfortranarray(np.eye(64, 48, dtype=np.uint8)))['counts'].decode()
EMPTY_ENTRY = {'id': 139, 'file_name': '000000000285.jpg', 'width': 40, 'height': 60}

TABLE_FAULTS = {
    'image without a name': (without('images', 'file_name'), ['image 139', "'file_name'"]),
    'image without a width': (without('images', 'width'), ['image 139', "'width'"]),
    'image of no width': (lambda data: data['images'][0].update(width=0), ['image 139', '0 x 48']),
    'image of a list as id': (lambda data: data['images'][0].update(id=[1]), ['[1]']),
    'image twice': (lambda data: data['images'].append(EMPTY_ENTRY), ['two images of id 139']),
    'category without a name': (without('categories', 'name'), ['category', "'name'"]),
    'category twice': (lambda data: data['categories'].append({'id': 90, 'name': 'x'}), ['two categories of id 90']),
    'annotation twice': (at(1, id=1768), ['two annotations of id 1768']),
    'no bbox': (without('annotations', 'bbox'), ['annotation 1768', "no 'bbox'"]),
    'no iscrowd': (without('annotations', 'iscrowd'), ['annotation 1768', "no 'iscrowd'"]),
    'no area': (without('annotations', 'area'), ['annotation 1768', "no 'area'"]),
    'unknown image': (at(0, image_id=7), ['annotation 1768', 'image_id 7', 'remove']),
    'image id as text': (at(0, image_id='139'), ['annotation 1768', "image_id '139'"]),
    'image id as list': (at(0, image_id=[139]), ['annotation 1768', 'image_id [139]']),
    'unknown category': (at(0, category_id=2), ['annotation 1768', 'category_id 2', 'add the category']),
    'box of three numbers': (at(0, bbox=[1, 2, 3]), ['annotation 1768', '[1, 2, 3]', 'four numbers']),
    'box not a number': (at(0, bbox=[1, 2, float('nan'), 4]), ['annotation 1768', 'nan', 'four numbers']),
    'box as text': (at(0, bbox='1 2 3 4' * 100), ['annotation 1768', '...', 'four numbers']),
    'box of corners the wrong way': (at(0, bbox=[30, 30, -20, 5]), ['annotation 1768', 'negative size']),
    'box outside': (at(0, bbox=[100, 8, 20, 30]), ['annotation 1768', 'outside its image of 64 x 48']),
    'area as text': (at(0, area='big'), ['annotation 1768', "area 'big'"]),
    'no mask': (without('annotations', 'segmentation'), ['annotation 1768', "no 'segmentation'"]),
    'mask empty': (at(0, segmentation=[]), ['annotation 1768', "no 'segmentation'"]),
    'mask as text': (at(0, segmentation='mask'), ['annotation 1768', 'neither RLE nor']),
    'mask as flat list': (at(0, segmentation=[1, 2, 3, 4, 5, 6]), ['annotation 1768', 'neither RLE nor']),
    'mask of another size': (
        at(0, segmentation={'size': [64, 48], 'counts': OTHER_RLE}),
        ['annotation 1768', '[64, 48]', '[48, 64]'],
    ),
    'mask without size': (at(0, segmentation={'counts': OTHER_RLE}), ['annotation 1768', 'without counts or size']),
    'mask cut short': (
        at(0, segmentation={'size': [48, 64], 'counts': SHORT_RLE}),
        ['annotation 1768', 'runs add up', '3072'],
    ),
    'mask that is no RLE': (
        at(0, segmentation={'size': [48, 64], 'counts': 'not\x01rle'}),
        ['annotation 1768', 'runs add up'],
    ),
    'runs too few': (at(2, segmentation={'size': [60, 40], 'counts': [100, 20]}), ['900100000285', '120', '2400']),
}


@pytest.mark.parametrize('fault', TABLE_FAULTS)
def test_faults_in_the_tables(coco, fault):
    change, said = TABLE_FAULTS[fault]
    edit(coco, change)
    sentence = refuse(coco, paths(coco)[0], *said)
    assert 'more like it' not in sentence
    assert '; ' in sentence  # the mend


def test_masks_are_looked_at_only_where_needed(coco):
    edit(coco, without('annotations', 'segmentation'))
    assert check_detection_data(*paths(coco)).annotations == 3


def test_what_the_framework_skips_is_noted(coco):
    edit(coco, lambda data: (at(0, bbox=[10, 8, 0.4, 30])(data), at(1, segmentation=[[1, 2, 3, 4]])(data)))
    notes = check_detection_data(*paths(coco), need_masks=True).notes
    assert any('annotation 1768' in note and 'skipped' in note for note in notes)
    assert any('annotation 1773' in note and 'ignored' in note for note in notes)


def test_further_faults_are_counted(coco):
    def change(data):
        for annotation in data['annotations']:
            annotation['category_id'] = 5
        data['annotations'][1]['bbox'] = None

    edit(coco, change)
    sentence = refuse(coco, 'annotation 1768', 'category_id 5', '2 more like it', '1 of other kinds')
    assert 'None' not in sentence


def test_classes_must_be_those_of_the_file(coco):
    refuse(coco, "'zebra'", 'person, toothbrush', 'metainfo', classes=('person', 'zebra'))
    refuse(coco, 'order', "'toothbrush'", classes=('toothbrush', 'person'))
    assert check_detection_data(*paths(coco), classes=('toothbrush',)).annotations == 3


@pytest.mark.parametrize('seed', range(3))
def test_run_totals_agree_with_pycocotools(seed):
    rng = np.random.default_rng(seed)
    for height, width, density in ((5, 7, 0.5), (60, 40, 0.1), (300, 200, 0.001), (640, 480, 0.5)):
        mask = cv2.resize(rng.random((9, 9)), (width, height)) < density
        counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))['counts'].decode()
        assert checks._run_total(counts) == height * width
        assert checks._run_total(counts[:-1]) != height * width


# ---------------------------------------------------------------------------------------------------------------------
# images
# ---------------------------------------------------------------------------------------------------------------------
def test_missing_images_are_named_and_counted(coco):
    for name in ('000000000285.jpg', '000000000632.jpg'):
        (paths(coco)[1] / name).unlink()
    for decode in ('sample', 'none'):
        sentence = refuse(coco, '000000000285.jpg', paths(coco)[1], '2 of 3 images', decode=decode)
        assert '000000000632.jpg' not in sentence


def test_images_in_sub_folders(coco):
    folder = paths(coco)[1] / 'part'
    folder.mkdir()
    (paths(coco)[1] / '000000000139.jpg').rename(folder / '000000000139.jpg')
    refuse(coco, 'names 000000000139.jpg', '1 of 3')
    edit(coco, lambda data: data['images'][0].update(file_name='part/000000000139.jpg'))
    assert check_detection_data(*paths(coco)).decoded == 3
    edit(coco, lambda data: data['images'][1].update(file_name='none/000000000285.jpg'))
    refuse(coco, 'names none/000000000285.jpg', '1 of 3')


def truncations(data):
    half = len(data) // 2
    return {
        'half': data[:half],
        'without its end marker': data[:-2],
        'one byte short': data[:-1],
        'zeros for its second half': data[:half] + bytes(len(data) - half),
        'header alone': data[:200],
    }


@pytest.mark.parametrize('lenient', [False, True])
@pytest.mark.parametrize('kind', truncations(b''))
def test_a_truncated_jpeg_is_named(coco, kind, lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', lenient)  # as some training code sets it
    path = paths(coco)[1] / '000000000285.jpg'
    path.write_bytes(truncations(path.read_bytes())[kind])
    refuse(coco, path, 'truncated', 'fetch it again')
    assert 'truncated' in explain_image_failure(path)
    assert check_detection_data(*paths(coco), decode='none').decoded == 0
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_thumbnail_does_not_hide_that_the_image_is_cut(tmp_path):
    thumbnail, whole = io.BytesIO(), io.BytesIO()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    picture.resize((16, 16)).save(thumbnail, 'JPEG')
    picture.save(whole, 'JPEG', exif=b'Exif\0\0' + thumbnail.getvalue())
    data = whole.getvalue()
    assert data.count(b'\xff\xd9') == 2
    path = tmp_path / 'a.jpg'
    path.write_bytes(data)
    assert explain_image_failure(path) == ''
    path.write_bytes(data[: -len(data) // 4] + bytes(len(data) // 4))
    assert 'truncated' in explain_image_failure(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(coco):
    path = paths(coco)[1] / '000000000285.jpg'
    path.write_bytes(path.read_bytes() + b'\0' * 100 + b'trailer')
    assert check_detection_data(*paths(coco)).decoded == 3
    assert explain_image_failure(path) == ''


@pytest.mark.parametrize(
    ('content', 'said'), [(b'', 'is empty'), (b'<html>403</html>', 'no image'), (b'\xff\xd8\xff', 'no image')]
)
def test_files_that_are_no_images(coco, content, said):
    path = paths(coco)[1] / '000000000285.jpg'
    path.write_bytes(content)
    refuse(coco, path, said, 'fetch it again')


def test_a_damaged_png_is_named(coco):
    path = paths(coco)[1] / '000000000285.png'
    done, png = cv2.imencode('.png', np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8))
    assert done
    edit(coco, lambda data: data['images'][1].update(file_name=path.name))
    path.write_bytes(png.tobytes())
    assert check_detection_data(*paths(coco)).decoded == 3
    path.write_bytes(png.tobytes()[:3000])
    refuse(coco, path, 'truncated')
    damaged = bytearray(png.tobytes())
    damaged[500:600] = bytes(100)
    path.write_bytes(bytes(damaged))
    refuse(coco, path, 'cannot be decoded')


def test_an_image_that_is_not_there_is_explained(tmp_path):
    assert 'No such file' in explain_image_failure(tmp_path / 'none.jpg')
    assert str(tmp_path / 'none.jpg') in explain_image_failure(tmp_path / 'none.jpg')


def test_an_image_of_another_size_is_named(coco):
    path = paths(coco)[1] / '000000000285.jpg'
    cv2.imwrite(str(path), np.zeros((61, 40, 3), np.uint8))
    sentence = refuse(coco, path, 'is 40 x 61', 'says 40 x 60')
    assert 'EXIF' not in sentence


def test_an_image_turned_by_exif_is_measured_as_it_is_loaded(coco):
    path = paths(coco)[1] / '000000000285.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (60, 40)).save(path, exif=exif)
    assert cv2.imread(str(path)).shape == (60, 40, 3)
    assert check_detection_data(*paths(coco)).decoded == 3
    Image.new('RGB', (40, 60)).save(path, exif=exif)
    refuse(coco, path, 'is 60 x 40', 'EXIF', 'says 40 x 60')


def test_the_sample_is_bounded_even_and_repeatable(coco, monkeypatch):
    def change(data):
        data['images'] = [dict(data['images'][0], id=139 + n, file_name=f'{n}.jpg') for n in range(50)]
        data['annotations'] = data['annotations'][:1]

    edit(coco, change)
    source = (paths(coco)[1] / '000000000139.jpg').read_bytes()
    for number in range(50):
        (paths(coco)[1] / f'{number}.jpg').write_bytes(source)
    monkeypatch.setattr(checks_common, 'SAMPLE', 8)
    seen = []
    inspect = checks.inspect_image
    monkeypatch.setattr(checks, 'inspect_image', lambda path: seen.append(int(path.stem)) or inspect(path))
    assert check_detection_data(*paths(coco)).decoded == 8
    assert sorted(seen) == [0, 7, 14, 21, 28, 35, 42, 49]
    assert check_detection_data(*paths(coco), decode='all').decoded == 50
    (paths(coco)[1] / '1.jpg').write_bytes(source[:-50])
    assert check_detection_data(*paths(coco)).decoded == 8
    refuse(coco, '1.jpg', 'truncated', decode='all')
    with pytest.raises(ValueError, match='decode'):
        check_detection_data(*paths(coco), decode='some')
