_base_ = './retinanet_lisa-t_fpn_1x_coco.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.3), neck=dict(in_channels=[192, 480, 768]))
