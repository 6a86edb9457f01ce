# mmseg's Semantic FPN, its ResNet-50 replaced by LiSA.
_base_ = 'mmseg::_base_/models/fpn_r50.py'

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='LiSA',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        # The one place for pretrained weights: a path or URL, and the prefix of the backbone's keys in that file
        # (None where there is none). With None as checkpoint, training starts at random and says so.
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
    test_cfg=dict(mode='whole', crop_size=(512, 512), stride=(341, 341)),  # size and stride are those of mode='slide'
)
