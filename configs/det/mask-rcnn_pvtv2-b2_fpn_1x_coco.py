# PVTv2-B2 in the place of LiSA-T.
_base_ = './mask-rcnn_lisa-t_fpn_1x_coco.py'

weights = ['model.backbone.init_cfg.checkpoint=https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b2.pth']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
)
