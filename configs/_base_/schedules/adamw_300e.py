# 300 epochs, AdamW as in mmpretrain's Swin configs, with an average of the weights as in its ConvNeXt configs. Neither
# norms, biases, layer scales nor RPEs decay.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, rpe=dict(decay_mult=0.0))),
    clip_grad=dict(max_norm=5.0),
)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
auto_scale_lr = dict(enable=False)
