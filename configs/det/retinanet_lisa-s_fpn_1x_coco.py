_base_ = './retinanet_lisa-t_fpn_1x_coco.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=[128, 384, 640]))
