# Any timm model with feature maps at strides 4 to 32 in the place of LiSA-T: model.backbone.model_name=NAME and, where
# the widths differ, those that the error message names.
_base_ = './mask-rcnn_lisa-t_fpn_1x_coco.py'

weights = ['model.backbone.pretrained=True']

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.TIMMBackbone',
        model_name='caformer_s18',
        features_only=True,
        out_indices=(-4, -3, -2, -1),
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
)
