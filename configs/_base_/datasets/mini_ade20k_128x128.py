# The mini ADE20K that tools/make_mini_data.py makes: textures and handwritten digits at 128 x 128. No flip, since a
# mirrored digit is another sign.
_base_ = './ade20k_512x512.py'

data_root = 'data/mini_ade20k/'
names = 'gradient noise stripes checks cells zero one two three four five six seven eight nine'
colours = '4e79a7 a0cbe8 bab0ac d7b5a6 8cd17d 1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 ffed3c bcbd22 17becf'
metainfo = dict(classes=tuple(names.split()), palette=[list(bytes.fromhex(code)) for code in colours.split()])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=(128, 128), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(128, 128)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(side, side), keep_ratio=True) for side in (96, 128, 160)],
            [dict(type='LoadAnnotations', reduce_zero_label=True)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo, reduce_zero_label=True)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
del names, colours, dataset
