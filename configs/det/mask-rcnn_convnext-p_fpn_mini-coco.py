# ConvNeXt of pico size in the place of LiSA pico.
_base_ = './mask-rcnn_lisa-p_fpn_mini-coco.py'

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 2, 3, 1], channels=[32, 64, 128, 192]),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        layer_scale_init_value=0.1,
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    neck=dict(in_channels=[32, 64, 128, 192]),
)
