# A few minutes on two processor cores: 16 epochs, AdamW with warm-up and cosine decay, for batches of 8.
_base_ = './adamw_1x.py'

train_cfg = dict(max_epochs=16, val_interval=16)  # a validation takes half a minute
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    # to the end of training
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=2e-3, fused=True), clip_grad=dict(max_norm=10.0, norm_type=2))
auto_scale_lr = dict(base_batch_size=8)
