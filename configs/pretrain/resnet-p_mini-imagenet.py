# ResNet-18 at 19/64 of its width in the place of LiSA pico.
_base_ = './lisa-p_mini-imagenet.py'

custom_imports = dict(imports=['lisa_backbone', 'mmdet.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.ResNet',
        depth=18,
        base_channels=19,
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    head=dict(in_channels=152),
)
