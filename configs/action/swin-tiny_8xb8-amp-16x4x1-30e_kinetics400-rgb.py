# Video Swin-T in the place of LiSA-T; it inflates weights of images.
_base_ = './lisa-t_8xb8-amp-16x4x1-30e_kinetics400-rgb.py'

weights = [
    'model.backbone.pretrained=https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth',
    'model.backbone.pretrained2d=True',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer3D',
        arch='tiny',
        pretrained2d=False,
        patch_size=(2, 4, 4),
        window_size=(8, 7, 7),
        drop_path_rate=0.1,
    ),
    cls_head=dict(in_channels=768),
)

# As in every recipe of Swin: its position biases do not decay, as the RPEs of LiSA do not.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)}))
