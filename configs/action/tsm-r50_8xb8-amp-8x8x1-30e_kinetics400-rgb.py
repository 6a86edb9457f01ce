# TSM-R50 under the data, schedule and views of LiSA-T; its weights are of images.
_base_ = [
    '../_base_/models/recognizer2d_tsm.py',
    '../_base_/datasets/kinetics400_8x8x1_frames.py',
    '../_base_/schedules/adamw_amp_30e.py',
    '../_base_/action_runtime.py',
]

weights = [
    'model.backbone.pretrained=torchvision://resnet50',
    'model.backbone.pretrained2d=True',
]
