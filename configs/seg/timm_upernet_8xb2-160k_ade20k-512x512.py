# Any timm model with feature maps at strides 4 to 32 in the place of LiSA-T: model.backbone.model_name=NAME and, where
# the widths differ, those that the error message names.
_base_ = './lisa-t_upernet_8xb2-160k_ade20k-512x512.py'

weights = ['model.backbone.pretrained=True']

custom_imports = dict(imports=['lisa_backbone', 'mmpretrain.models'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.TIMMBackbone',
        model_name='caformer_s18',
        features_only=True,
        out_indices=(-4, -3, -2, -1),
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
)
