"""Ways to learn from labels and teachers. Importing this package is cheap: torch comes in when a
loss is computed.
"""

from distill_ray.methods.attention_transfer import AttentionTransfer
from distill_ray.methods.augmented_kd import AugmentedKD
from distill_ray.methods.crd import CRD
from distill_ray.methods.dist import DIST
from distill_ray.methods.dkd import DKD
from distill_ray.methods.drop_gauss import DropoutKD, GaussianKD
from distill_ray.methods.endd import EnDD
from distill_ray.methods.fitnet import FitNet
from distill_ray.methods.hydra import Hydra, HydraPlus
from distill_ray.methods.kd import EnsembleKD
from distill_ray.methods.latent_be import LatentBE
from distill_ray.methods.method import METHODS, Method
from distill_ray.methods.mlkd import MLKD
from distill_ray.methods.nkd import NKD
from distill_ray.methods.pkt import PKT
from distill_ray.methods.proxy_endd import ProxyEnDD
from distill_ray.methods.reviewkd import ReviewKD
from distill_ray.methods.rkd import RKD
from distill_ray.methods.sp import SP
from distill_ray.methods.supervised import Supervised

__all__ = [
    "CRD",
    "DIST",
    "DKD",
    "METHODS",
    "MLKD",
    "NKD",
    "PKT",
    "RKD",
    "SP",
    "AttentionTransfer",
    "AugmentedKD",
    "DropoutKD",
    "EnDD",
    "EnsembleKD",
    "FitNet",
    "GaussianKD",
    "Hydra",
    "HydraPlus",
    "LatentBE",
    "Method",
    "ProxyEnDD",
    "ReviewKD",
    "Supervised",
]
