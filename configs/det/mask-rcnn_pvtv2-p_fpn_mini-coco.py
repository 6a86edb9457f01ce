# PVTv2 of pico size, by timm in the place of LiSA pico.
_base_ = './mask-rcnn_lisa-p_fpn_mini-coco.py'

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.TIMMBackbone',
        model_name='pvt_v2_b0',
        features_only=True,
        pretrained=False,
        embed_dims=(24, 48, 120, 192),
        depths=(1, 1, 1, 1),
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    neck=dict(in_channels=[24, 48, 120, 192]),
)
