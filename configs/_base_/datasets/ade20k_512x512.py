# ADE20K at a short side of 512 and crops of 512 x 512, as mmseg ships it, for 8 GPUs of 2 images. With --tta: flips
# and short sides of 256 to 896 (mmseg's own tta_pipeline scales the file's size, not 512).
_base_ = 'mmseg::_base_/datasets/ade20k.py'

data_root = 'data/ade/ADEChallengeData2016/'
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations', reduce_zero_label=True)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
