_base_ = './lisa-t_fpn_8xb2-80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='base'), neck=dict(in_channels=[96, 192, 480, 768]))
