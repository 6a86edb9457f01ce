# PVTv2-B2 in the place of LiSA-T.
_base_ = './lisa-t_upernet_8xb2-160k_ade20k-512x512.py'

weights = ['model.backbone.init_cfg.checkpoint=https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b2.pth']

custom_imports = dict(imports=['lisa_backbone', 'mmdet.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
)
