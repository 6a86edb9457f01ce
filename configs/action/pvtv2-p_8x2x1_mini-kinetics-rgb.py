# PVTv2 of pico size, by timm in the place of LiSA pico, the frames of a clip as its channels.
_base_ = './lisa-p_8x2x1_mini-kinetics-rgb.py'

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='EarlyFusion',
        frames=8,
        backbone=dict(
            type='mmpretrain.TIMMBackbone',
            model_name='pvt_v2_b0',
            features_only=True,
            pretrained=False,
            embed_dims=(24, 48, 120, 192),
            depths=(1, 1, 1, 1),
        ),
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    cls_head=dict(in_channels=192),
)
