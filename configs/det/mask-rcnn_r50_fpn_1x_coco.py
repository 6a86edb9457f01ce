# ResNet-50 in the place of LiSA-T.
# Nothing is frozen and statistics are shared by the GPUs, so that a random start is sound as well.
_base_ = './mask-rcnn_lisa-t_fpn_1x_coco.py'

weights = ['model.backbone.init_cfg.checkpoint=torchvision://resnet50']

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=50,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
