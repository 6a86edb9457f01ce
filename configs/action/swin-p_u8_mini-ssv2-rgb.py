# Swin of pico size in the place of LiSA pico, the frames of a clip as its channels.
_base_ = ['./lisa-p_u8_mini-ssv2-rgb.py', '../_base_/backbones/swin-p.py']

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='EarlyFusion',
        frames=8,
        backbone=_base_.peer,
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
    ),
    cls_head=dict(in_channels=224),
)

# As in every recipe of Swin: its position biases do not decay, as the RPEs of LiSA do not. A third of the rate of the
# others, at which it stays at chance on mini ImageNet.
optim_wrapper = dict(
    optimizer=dict(lr=5e-4), paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)})
)
