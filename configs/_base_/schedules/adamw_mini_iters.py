# A few minutes on two processor cores, counted in iterations: AdamW with warm-up and cosine decay, for batches of 8.
_base_ = './adamw_80k.py'

train_cfg = dict(max_iters=2000, val_interval=2000)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05, fused=True), clip_grad=dict(_delete_=True, max_norm=10.0, norm_type=2)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=0),  # to the end of training
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=200))
auto_scale_lr = dict(base_batch_size=8)
