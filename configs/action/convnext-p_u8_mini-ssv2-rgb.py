# ConvNeXt of pico size in the place of LiSA pico, the frames of a clip as its channels.
_base_ = './lisa-p_u8_mini-ssv2-rgb.py'

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='EarlyFusion',
        frames=8,
        backbone=dict(
            type='mmpretrain.ConvNeXt',
            arch=dict(depths=[1, 2, 3, 1], channels=[32, 64, 128, 192]),
            out_indices=(0, 1, 2, 3),
            gap_before_final_norm=False,
            layer_scale_init_value=0.1,
            drop_path_rate=0.0,
        ),
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    cls_head=dict(in_channels=192),
)
