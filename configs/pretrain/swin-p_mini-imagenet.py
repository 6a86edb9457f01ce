# Swin of pico size in the place of LiSA pico.
_base_ = ['./lisa-p_mini-imagenet.py', '../_base_/backbones/swin-p.py']

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        init_cfg=dict(type='Pretrained', checkpoint=None, prefix='backbone.'),
        **_base_.peer,
    ),
    head=dict(in_channels=224),
)

# As in every recipe of Swin: its position biases do not decay, as the RPEs of LiSA do not. A third of the rate of the
# others, 1.5e-3, at which it stayed at 14 % (seed 0); of all it alone has no convolution beyond its patches.
optim_wrapper = dict(
    optimizer=dict(lr=5e-4), paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)})
)
