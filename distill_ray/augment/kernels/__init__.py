"""The tensor code of the views. These modules import torch; views reach them through `LazyModule`."""
