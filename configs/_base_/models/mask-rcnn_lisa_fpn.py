# mmdet's Mask R-CNN with FPN, its ResNet-50 replaced by LiSA.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='LiSA',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        # The one place for pretrained weights: a path or URL, and the prefix of the backbone's keys in that file
        # (None where there is none). With None as checkpoint, training starts at random and says so.
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
