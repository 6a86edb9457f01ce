_base_ = './lisa-t_fpn_8xb2-80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=[64, 128, 384, 640]))
