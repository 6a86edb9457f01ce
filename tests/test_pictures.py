"""Pictures of label maps, clips and classified images, and testing with flips and scales."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')

from mmengine.config import Config  # noqa: E402
from mmengine.structures import BaseDataElement, PixelData  # noqa: E402

from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.pictures import PictureHook, draw_classes, draw_segmentation, magnification  # noqa: E402
from lisa_backbone.runner import _augment_test, _show  # noqa: E402

CLASSES = ('ground', 'digit', 'never seen')
PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
HEAD, GAP, SIDE = 26, 6, 256  # height of the line of names, white between panels, side of a panel of 64 pixels


def test_magnification_is_the_least_whole_factor():
    assert [magnification((side, 3 * side), 256) for side in (64, 100, 128, 255, 256, 400)] == [4, 3, 2, 2, 1, 1]


def test_a_label_map_is_drawn_where_it_is():
    image = np.full((64, 64, 3), 100, np.uint8)
    truth = np.zeros((64, 64), np.int64)
    truth[:16] = 255  # not labelled: no class
    prediction = np.zeros((64, 64), np.int64)
    prediction[32:, 32:] = 1
    picture = draw_segmentation(image, truth, prediction, CLASSES, PALETTE)
    assert picture.shape[1] == 3 * SIDE + 2 * GAP
    panels = [picture[HEAD : HEAD + SIDE, i * (SIDE + GAP) :][:, :SIDE].astype(int) for i in range(3)]
    red, green = [200, 35, 35], [35, 200, 35]  # 0.65 of the class's colour and 0.35 of the grey image
    assert (panels[0] == 100).all()
    assert (panels[1][:64] == 100).all()
    np.testing.assert_allclose(panels[1][64:], np.broadcast_to(red, (192, 256, 3)), atol=1)
    np.testing.assert_allclose(panels[2][128:, 128:], np.broadcast_to(green, (128, 128, 3)), atol=1)
    np.testing.assert_allclose(panels[2][:128], np.broadcast_to(red, (128, 256, 3)), atol=1)


def test_the_legend_names_the_classes_that_are_there():
    image = np.zeros((64, 64, 3), np.uint8)
    labels = np.zeros((64, 64), np.int64)
    both = labels.copy()
    both[:10] = 1
    legends = [draw_segmentation(image, None, m, CLASSES, PALETTE)[HEAD + SIDE :] for m in (labels, both)]
    colours = [{tuple(c) for c in legend.reshape(-1, 3)} for legend in legends]
    red, green, blue = (210, 44, 44), (44, 210, 44), (44, 44, 210)  # over a middle grey, as they are in the map
    assert red in colours[0]
    assert green not in colours[0]
    assert {red, green} <= colours[1]
    assert blue not in colours[1]


def test_labels_without_names_and_colours_are_drawn_too():
    image = np.zeros((64, 64, 3), np.uint8)
    labels = np.repeat(np.arange(4), 16)[:, None].repeat(64, axis=1)
    picture = draw_segmentation(image, labels, labels)
    truth = picture[HEAD : HEAD + SIDE, SIDE + GAP :][:, :SIDE]
    rows = [tuple(truth[64 * i + 5, 5]) for i in range(4)]
    assert len(set(rows)) == 4
    assert (truth == picture[HEAD : HEAD + SIDE, 2 * (SIDE + GAP) :]).all()


def has(picture, colour):
    """Whether a text of this colour stands below the frames."""
    return bool((picture[SIDE:].reshape(-1, 3) == colour).all(axis=1).any())


def test_classes_are_listed_by_score_and_coloured_by_truth():
    frames = [np.full((64, 64, 3), value, np.uint8) for value in (10, 20)]
    scores = np.array([0.1, 0.6, 0.3])
    right, wrong, dark = (0, 120, 40), (190, 30, 30), (40, 40, 40)
    found = draw_classes(frames, [1], scores, CLASSES)
    assert found.shape == (SIDE + 4 * HEAD, 2 * SIDE + GAP, 3)  # the truth and the likeliest three
    assert (found[:SIDE, :SIDE] == 10).all()
    assert (found[:SIDE, SIDE + GAP :] == 20).all()
    assert has(found[:, : 2 * SIDE], right)
    assert has(found, wrong)
    assert has(found[: SIDE + HEAD], dark)
    lines = [found[SIDE + i * HEAD : SIDE + (i + 1) * HEAD] for i in range(4)]
    assert [bool((line.reshape(-1, 3) == right).all(axis=1).any()) for line in lines] == [False, True, False, False]
    missed = draw_classes(frames, [0], np.array([0.0, 0.5, 0.2, 0.2, 0.1]))
    assert not has(missed, right)
    assert draw_classes(frames, [], scores).shape[0] == SIDE + 3 * HEAD


class Writer:
    """What the hook asks of a runner."""

    def __init__(self, **meta):
        self.visualizer = SimpleNamespace(dataset_meta=meta)
        self.warned = []
        self.logger = SimpleNamespace(warning=self.warned.append)


def draw(tmp_path, runner, samples, inputs):
    hook = PictureHook(str(tmp_path / 'out'))
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, {'inputs': inputs}, samples)
    hook.after_test(runner)
    return {path.name: cv2.imread(str(path)) for path in (tmp_path / 'out').iterdir()}


def test_pictures_are_named_after_files(tmp_path):
    samples = []
    for name, label in (('a.mp4', 0), ('b.webm', 1), ('other/a.mp4', 1)):
        sample = BaseDataElement(metainfo={'filename': f'/data/{name}'})
        sample.gt_label = torch.tensor([label])
        sample.pred_score = torch.tensor([0.25, 0.75])
        samples.append(sample)
    clips = [torch.full((3, 3, 8, 64, 64), value, dtype=torch.uint8) for value in (30, 90, 150)]
    runner = Writer(classes=CLASSES[:2])
    pictures = draw(tmp_path, runner, samples, clips)
    assert sorted(pictures) == ['a.jpg', 'a_2.jpg', 'b.jpg']
    assert not runner.warned
    for name, value in (('a.jpg', 30), ('b.jpg', 90), ('a_2.jpg', 150)):
        assert abs(int(pictures[name][100, 100, 0]) - value) <= 2
        assert pictures[name].shape == (SIDE + 3 * HEAD, 5 * SIDE + 4 * GAP, 3)  # five of eight frames


def test_frames_are_in_order_and_rgb(tmp_path):
    clip = torch.zeros(3, 3, 5, 64, 64, dtype=torch.uint8)
    clip[1, 0] = torch.tensor([0, 50, 100, 150, 200], dtype=torch.uint8)[:, None, None]  # red of the middle view
    sample = BaseDataElement()
    sample.pred_score = torch.tensor([1.0])
    picture = draw(tmp_path, Writer(), [sample], [clip])['sample.jpg']
    reds = [int(picture[100, i * (SIDE + GAP) + 100, 2]) for i in range(5)]  # OpenCV reads BGR
    np.testing.assert_allclose(reds, [0, 50, 100, 150, 200], atol=6)
    assert picture[100, 4 * (SIDE + GAP) + 100, 0] < 10


def test_a_label_map_of_a_test_is_drawn_over_its_file(tmp_path):
    path = tmp_path / 'ADE_val_1.jpg'
    cv2.imwrite(str(path), np.full((64, 64, 3), 100, np.uint8))
    sample = BaseDataElement(metainfo={'img_path': str(path)})
    sample.pred_sem_seg = PixelData(data=torch.ones(1, 64, 64, dtype=torch.long))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 64, 64, dtype=torch.long))
    picture = draw(tmp_path, Writer(classes=CLASSES, palette=PALETTE), [sample], [None])['ADE_val_1.jpg']
    np.testing.assert_allclose(picture[150, SIDE + GAP + 100], [35, 35, 200], atol=4)  # BGR: red, the truth
    np.testing.assert_allclose(picture[150, 2 * (SIDE + GAP) + 100], [35, 200, 35], atol=4)


def test_nothing_to_draw_is_said(tmp_path):
    runner = Writer()
    assert draw(tmp_path, runner, [BaseDataElement()], [None]) == {}
    assert 'no picture was drawn' in runner.warned[0]


def test_show_dir_adds_the_hook_beside_those_of_the_config():
    cfg = Config({'default_scope': 'mmaction', 'custom_hooks': [{'type': 'EMAHook'}]})
    _show(cfg, '/pictures')
    assert [hook['type'] for hook in cfg.custom_hooks] == ['EMAHook', 'PictureHook']
    assert cfg.custom_hooks[1].out_dir == '/pictures'


def test_tta_wraps_the_model_and_replaces_the_pipeline_inside_wrappers():
    leaf = {'type': 'Leaf', 'pipeline': ['one']}
    cfg = Config(
        {
            'model': {'type': 'Model'},
            'tta_model': {'type': 'Average'},
            'tta_pipeline': ['many'],
            'test_dataloader': {'dataset': {'type': 'RepeatDataset', 'dataset': leaf}},
        }
    )
    _augment_test(cfg)
    assert cfg.model == {'type': 'Average', 'module': {'type': 'Model'}}
    assert cfg.test_dataloader.dataset.dataset.pipeline == ['many']
    cfg.tta_pipeline = None
    with pytest.raises(UserError, match=r'--tta: config .* has no tta_pipeline; add one'):
        _augment_test(cfg)


def test_detections_are_drawn_enlarged_and_stay_as_they_were(monkeypatch, tmp_path):
    """mmdet evaluates the very sample that is drawn, and a label beside a small box is as large as any."""
    pytest.importorskip('mmdet')
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData
    from mmengine.visualization import Visualizer

    from lisa_backbone.visualization import FONT_SIZE, UpscalingDetVisualizer

    boxes, masks = torch.tensor([[10.0, 10, 40, 50], [60, 60, 66, 66]]), torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0, 20:30, 20:30] = True
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=boxes.clone(), labels=torch.tensor([0, 1]), masks=BitmapMasks(masks.numpy(), 100, 100)
    )
    sample.pred_instances = InstanceData(
        bboxes=boxes.clone(), labels=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.8]), masks=masks.clone()
    )
    sizes, draw_texts = [], Visualizer.draw_texts

    def spy(self, *args, font_sizes=None, **kwargs):
        sizes.append(font_sizes)
        return draw_texts(self, *args, font_sizes=font_sizes, **kwargs)

    monkeypatch.setattr(Visualizer, 'draw_texts', spy)
    visualizer = UpscalingDetVisualizer('enlarging', alpha=1.0, mask_color=(0, 0, 255))
    visualizer.dataset_meta = {'classes': ['zero', 'one'], 'palette': [(255, 0, 0), (0, 255, 0)]}
    for number in range(2):  # the second like the first
        visualizer.add_datasample('a', np.full((100, 100, 3), 90, np.uint8), sample, out_file=str(tmp_path / 'a.png'))
        picture = cv2.imread(str(tmp_path / 'a.png'))[..., ::-1].astype(int)
        assert picture.shape == (400, 800, 3), number
        for left in (0, 400):
            panel = picture[:, left : left + 400]
            np.testing.assert_allclose(panel[140:190, 40], np.broadcast_to([255, 0, 0], (50, 3)), atol=40)  # an edge
            assert panel[100, 100, 2] > panel[100, 100, 0] + 50  # in the mask
            assert (panel[300, 300] == 90).all()
    assert sizes == [FONT_SIZE] * 8
    for instances in (sample.gt_instances, sample.pred_instances):
        assert torch.equal(instances.bboxes, boxes)
    assert torch.equal(sample.pred_instances.masks, masks)
    assert sample.gt_instances.masks.masks.shape == (2, 100, 100)
