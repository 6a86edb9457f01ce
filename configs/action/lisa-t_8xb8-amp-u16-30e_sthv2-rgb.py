_base_ = [
    '../_base_/models/recognizer3d_lisa.py',
    '../_base_/datasets/sthv2_u16.py',
    '../_base_/schedules/adamw_amp_30e.py',
    '../_base_/action_runtime.py',
]

model = dict(backbone=dict(temporal_stride=2), cls_head=dict(num_classes=174))
