# mmaction2's TSM on ResNet-50, from random.
_base_ = 'mmaction::_base_/models/tsm_r50.py'

model = dict(backbone=dict(pretrained=None, pretrained2d=False))
