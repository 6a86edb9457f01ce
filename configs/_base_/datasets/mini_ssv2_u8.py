# The mini Something-Something that tools/make_mini_data.py makes: a digit at 64 x 64 that moves in one of ten ways, 16
# frames, of which one of each of 8 segments is taken. Never flipped, since left and right are labels. Tested on one
# view.
_base_ = './sthv2_u16.py'

data_root = 'data/mini_ssv2/'
metainfo = dict(
    classes=(
        'Moving something from right to left',
        'Moving something from left to right',
        'Moving something up',
        'Moving something down',
        'Moving something towards the camera',
        'Moving something away from the camera',
        'Turning something clockwise',
        'Turning something counter-clockwise',
        'Making something appear',
        'Making something vanish',
    )
)
train_pipeline = [
    dict(type='OpenVideo', keep=256),
    dict(type='UniformSample', clip_len=8),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(72, 72), keep_ratio=False),
    dict(type='RandomCrop', size=64),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='OpenVideo'),
    dict(type='UniformSample', clip_len=8, test_mode=True),
    dict(type='FetchFrames'),
    dict(type='Resize', scale=(72, 72), keep_ratio=False),
    dict(type='CenterCrop', crop_size=64),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('filename', 'img_shape')),
]
train_set = dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline)
val_set = dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline)
train_dataloader = dict(batch_size=16, num_workers=1, dataset=train_set)
val_dataloader = dict(num_workers=1, dataset=val_set)
test_dataloader = dict(batch_size=8, num_workers=1, dataset=val_set)
del train_set, val_set
