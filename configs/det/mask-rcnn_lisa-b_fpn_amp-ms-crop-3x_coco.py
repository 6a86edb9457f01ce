_base_ = './mask-rcnn_lisa-t_fpn_amp-ms-crop-3x_coco.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.3), neck=dict(in_channels=[96, 192, 480, 768]))
