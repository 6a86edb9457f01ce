# ResNet-50 in the place of LiSA-T; weights: torchvision://resnet50
# Nothing is frozen and statistics are shared by the GPUs, so that a random start is sound as well.
_base_ = './mask-rcnn_lisa-t_fpn_1x_coco.py'

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
