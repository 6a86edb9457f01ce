# mmaction2's Recognizer2D with the head of its TSN, and LiSA on single frames. Recognizer2D unpacks the maps of
# backbones of mmpretrain's scope alone, hence the name by way of it.
_base_ = 'mmaction::_base_/models/tsn_r50.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.LiSA',
        arch='tiny',
        out_indices=(3,),
        drop_path_rate=0.1,
        # The one place for pretrained weights: a path or URL, and the prefix of the backbone's keys in that file
        # (None where there is none). With None as checkpoint, training starts at random and says so.
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    cls_head=dict(in_channels=512, dropout_ratio=0.5),
)
