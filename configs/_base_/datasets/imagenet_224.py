# ImageNet-1K at 224 x 224 with the augmentation of mmpretrain's Swin configs (RandAugment, random erasing), for 16 GPUs
# of 64 images.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

data_root = 'data/imagenet/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
