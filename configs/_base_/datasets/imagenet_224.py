# ImageNet-1K at 224 x 224 with the augmentation of mmpretrain's Swin configs (RandAugment, random erasing), for 16 GPUs
# of 64 images.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

data_root = 'data/imagenet/'
# Workers are kept: a new one each epoch is seeded as the one before, and draws the same augmentation. They stack the
# images of a batch, as with mmpretrain's own launcher, so that it moves to the GPU as one tensor.
train_dataloader = dict(
    pin_memory=True,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(data_root=data_root),
)
val_dataloader = dict(
    pin_memory=True,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(data_root=data_root),
)
test_dataloader = val_dataloader
