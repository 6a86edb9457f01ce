# Swin of pico size in the place of LiSA pico.
_base_ = './lisa-p_mini-imagenet.py'

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch=dict(embed_dims=28, depths=[1, 1, 2, 1], num_heads=[2, 4, 8, 16]),
        img_size=64,
        window_size=4,
        pad_small_map=True,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    head=dict(in_channels=224),
)
