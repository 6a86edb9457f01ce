# What every segmentation config shares: mmseg's runtime, the backbone's import and a seed.
_base_ = 'mmseg::_base_/default_runtime.py'

custom_imports = dict(imports=['lisa_backbone'], allow_failed_imports=False)
randomness = dict(seed=0)
