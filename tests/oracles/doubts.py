"""Doubts of networks by their definitions, in NumPy and SciPy, and how well they tell foreign from
familiar images, by scikit-learn.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax
from scipy.stats import entropy
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve


def doubts(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Of the logits (M, N, K) of members, (N,) each, by the prefix of their measures' names; the
    epistemic one only of several members.
    """
    members = softmax(logits, axis=-1)
    mean = members.mean(axis=0)
    found = {
        "": entropy(mean, axis=1),
        "msp-": -mean.max(axis=1),
        "energy-": -logsumexp(logits, axis=2).mean(axis=0),
    }
    if len(members) > 1:
        found["epistemic-"] = found[""] - entropy(members, axis=2).mean(axis=0)
    return found


def separations(is_foreign: np.ndarray, doubt: np.ndarray) -> dict[str, float]:
    """The measures of one doubt (N,), for images of which it is 1 or 0 whether they are foreign."""
    false, true, _ = roc_curve(1 - is_foreign, -doubt, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(is_foreign, doubt)),
        "aupr-foreign": float(average_precision_score(is_foreign, doubt)),
        "aupr-test": float(average_precision_score(1 - is_foreign, -doubt)),
        "fpr95": float(false[np.argmax(true >= 0.95)]),
    }
