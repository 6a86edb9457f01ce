# mmaction2's Recognizer3D and head as its Video Swin configs set them up, with LiSA.
_base_ = 'mmaction::_base_/models/swin_tiny.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='LiSA',
        arch='tiny',
        out_indices=(3,),
        temporal_stride=1,
        drop_path_rate=0.1,
        # The one place for pretrained weights: a path or URL, and the prefix of the backbone's keys in that file
        # (None where there is none); those of an image model are inflated. With None as checkpoint, training starts
        # at random and says so.
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    neck=dict(type='LastMap'),  # the head takes one tensor, the backbone gives a tuple
    cls_head=dict(in_channels=512),
)
