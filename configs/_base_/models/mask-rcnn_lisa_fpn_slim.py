# A Mask R-CNN slim enough for a laptop's processor: narrow neck and heads, four levels, anchors from 16 to 128 px.
# A fixed number of samples in RoIAlign: the adaptive one takes a sixth of the time of a step on a processor.
_base_ = './mask-rcnn_lisa_fpn.py'

width = 64
model = dict(
    backbone=dict(arch='pico', norm='BN', drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=width, num_outs=4),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=width, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(num_convs=2, in_channels=width, conv_out_channels=width, num_classes=10),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=150),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=50)),
)
