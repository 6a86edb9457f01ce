# TSM-R50 under the data, schedule and views of LiSA-T; its weights are of images.
_base_ = [
    '../_base_/models/recognizer2d_tsm.py',
    '../_base_/datasets/sthv2_u16_frames.py',
    '../_base_/schedules/adamw_amp_30e.py',
    '../_base_/action_runtime.py',
]

weights = [
    'model.backbone.pretrained=torchvision://resnet50',
    'model.backbone.pretrained2d=True',
]

model = dict(backbone=dict(num_segments=16), cls_head=dict(num_classes=174, num_segments=16))
