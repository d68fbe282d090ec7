"""The tensor code of the augmentations. These modules import torch; augmentations reach them
through `LazyModule`.
"""
