# ResNet-50 in the place of LiSA-T.
# Nothing is frozen and statistics are shared by the GPUs, so that a random start is sound as well.
_base_ = './lisa-t_upernet_8xb2-160k_ade20k-512x512.py'

weights = ['model.backbone.init_cfg.checkpoint=open-mmlab://resnet50_v1c']

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNetV1c',
        depth=50,
        contract_dilation=True,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
