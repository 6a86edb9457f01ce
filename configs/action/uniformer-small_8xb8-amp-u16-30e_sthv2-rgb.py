# UniFormer-S in the place of LiSA-T; it inflates weights of images.
_base_ = './lisa-t_8xb8-amp-u16-30e_sthv2-rgb.py'

weights = [
    'model.backbone.pretrained=uniformer_small_in1k',
    'model.backbone.pretrained2d=True',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='UniFormer',
        depth=[3, 4, 8, 3],
        embed_dim=[64, 128, 320, 512],
        head_dim=64,
        pretrained2d=False,
        drop_path_rate=0.1,
    ),
)
