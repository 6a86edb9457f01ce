# Swin of pico size in the place of LiSA pico.
_base_ = ['./mask-rcnn_lisa-p_fpn_mini-coco.py', '../_base_/backbones/swin-p.py']

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
        **_base_.peer,
    ),
    neck=dict(in_channels=[28, 56, 112, 224]),
)

# As in every recipe of Swin: its position biases do not decay, as the RPEs of LiSA do not. A third of the rate of the
# others, at which it stays at chance on mini ImageNet.
optim_wrapper = dict(
    optimizer=dict(lr=7e-4), paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)})
)
