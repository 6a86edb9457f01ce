# A Semantic FPN slim enough for a laptop's processor: narrow neck and head.
_base_ = './fpn_lisa.py'

width = 64
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(arch='pico', norm='BN', drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=width),
    decode_head=dict(in_channels=[width] * 4, channels=width, num_classes=15, norm_cfg=norm_cfg),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
