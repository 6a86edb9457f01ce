# mmseg's UPerNet as its Swin configs set it up, with LiSA.
_base_ = 'mmseg::_base_/models/upernet_swin.py'

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='LiSA',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
        # The one place for pretrained weights: a path or URL, and the prefix of the backbone's keys in that file
        # (None where there is none). With None as checkpoint, training starts at random and says so.
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=150),
    auxiliary_head=dict(in_channels=320, num_classes=150),
    test_cfg=dict(mode='whole', crop_size=(512, 512), stride=(341, 341)),  # size and stride are those of mode='slide'
)
