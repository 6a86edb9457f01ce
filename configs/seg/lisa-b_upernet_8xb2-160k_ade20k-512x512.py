_base_ = './lisa-t_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='base'), decode_head=dict(in_channels=[96, 192, 480, 768]), auxiliary_head=dict(in_channels=480)
)
