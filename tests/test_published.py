"""The published figures in results/: all of them, each as its source gives it, none merged with another."""

from collections import Counter
from pathlib import Path

import pytest

from lisa_backbone.records import read_records

RECORDS = read_records(Path(__file__).parents[1] / 'results' / 'published.jsonl')
TOTAL = 6120.31  # the sum of all 125, in percent: a digit changed anywhere shows

# Model, task, what sets its protocol apart, and the metrics in percent, as they were read.
SPOTS = [
    ('ResNet-50', 'COCO Mask R-CNN 1x', {}, {'box AP': 38.2, 'mask AP': 34.7}),
    ('ResNet-50', 'ADE20K Semantic FPN 160k', {'iterations': 160000}, {'mIoU': 37.49}),
    ('Swin-T', 'COCO Mask R-CNN 1x', {}, {'box AP': 43.7, 'mask AP': 39.8}),
    ('Swin-T', 'COCO Mask R-CNN 1x', {'training': 'single scale, mmdet'}, {'box AP': 42.7, 'mask AP': 39.3}),
    ('Swin-S', 'COCO Mask R-CNN 1x', {}, {'box AP': 45.7, 'mask AP': 41.1}),
    ('Swin-S', 'COCO Mask R-CNN 1x', {'quoted by': 'VMamba'}, {'box AP': 44.8, 'mask AP': 40.9}),
    ('UniFormer-B (h14)', 'COCO Mask R-CNN 3x', {}, {'box AP': 50.3, 'mask AP': 44.8}),
    ('TransNeXt-Tiny', 'ADE20K UPerNet 160k', {'scales': 1, 'input': '512x512'}, {'mIoU': 51.1}),
    ('RMT-S', 'ADE20K Semantic FPN 80k', {'iterations': 80000}, {'mIoU': 49.4}),
    ('FLatten-Swin-T', 'ADE20K UPerNet 160k', {}, {'mIoU': 44.82}),
    ('MViTv2-S', 'Kinetics-400', {'views': 'as published'}, {'top-1': 81.0}),
    ('UniFormer-S (h14)', 'Kinetics-400', {'views': 4, 'frames': 16}, {'top-1': 80.8}),
    ('UniFormer-S (h14)', 'Something-Something-V2', {'frames': 16}, {'top-1': 67.7}),
    ('Swin-B', 'Something-Something-V2', {'pretraining': 'Kinetics-400'}, {'top-1': 69.6}),
    ('SlowFast-R50 8x8', 'Something-Something-V2', {'frames': 16, 'frame interval': 8}, {'top-1': 63.0}),
]


def find(model, task, protocol):
    """The record of a model and task whose protocol has these entries and the fewest beside them."""
    found = [r for r in RECORDS if (r['model'], r['task']) == (model, task)]
    return min((r for r in found if protocol.items() <= r['protocol'].items()), key=lambda r: len(r['protocol']))


def test_all_figures_are_there():
    assert sum(len(record['metrics']) for record in RECORDS) == 125
    assert len({record['model'] for record in RECORDS}) == 28
    assert {record['status'] for record in RECORDS} == {'published'}
    assert Counter((r['task'].split()[0], name) for r in RECORDS for name in r['metrics']) == {
        ('COCO', 'box AP'): 39,
        ('COCO', 'mask AP'): 39,
        ('ADE20K', 'mIoU'): 30,
        ('Kinetics-400', 'top-1'): 10,
        ('Something-Something-V2', 'top-1'): 7,
    }
    assert sum(value for r in RECORDS for value in r['metrics'].values()) == pytest.approx(TOTAL / 100, abs=1e-9)


@pytest.mark.parametrize(('model', 'task', 'protocol', 'percent'), SPOTS)
def test_figures_are_those_of_the_source(model, task, protocol, percent):
    metrics = find(model, task, protocol)['metrics']
    assert {name: round(100 * value, 4) for name, value in metrics.items()} == percent


def test_each_has_a_source_and_a_size():
    assert all(record['source'].strip() == record['source'] != '' for record in RECORDS)
    found = {(r['model'], r['parameters']['backbone'], r['macs']['value'], *r['macs']['input']) for r in RECORDS}
    sizes = {model: size for model, *size in found}
    assert len(found) == len(sizes) == 28
    assert sizes['PVTv2-B2'] == [25_400_000, 4_050_000_000, 1, 3, 224, 224]
    assert sizes['XCiT-S12/8'] == [26_200_000, 18_700_000_000, 1, 3, 224, 224]
    assert sizes['SlowFast-R50 8x8'] == [34_600_000, 66_100_000_000]  # of a clip; its size is not stated


def test_figures_of_other_protocols_stand_alone():
    """What a note tells of the protocol is in the protocol, so that no table puts it beside the others."""
    noted = {(r['model'], r['note']): r['protocol'] for r in RECORDS if r['note']}
    assert set(noted) == {
        ('ResNet-50', '160k'),
        ('Swin-T', 'mmdet single-scale training'),
        ('Swin-S', 'as quoted by VMamba'),
        ('Swin-B', 'K400-pre'),
        ('UniFormer-S (h14)', '16f x 4 views'),
        ('UniFormer-S (h14)', '16f'),
        ('SlowFast-R50 8x8', '16x8'),
    }
    for record in RECORDS:
        others = [r for r in RECORDS if r['task'] == record['task'] and r['protocol'] == record['protocol']]
        if record['note']:
            assert others == [record]
        else:
            assert not any(r['note'] for r in others)
