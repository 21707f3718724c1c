"""The tables and correlations of arXiv:2204.04778, and what can be computed from them.

>>> table = tables()
>>> table.loc["PGD 8", ["fgsm8", "aa8", "cos8"]].tolist()
[35.0, 27.5, 0.719]

Facts read off tables 2 and 3 and the heat map in the author's public repository
(CarlosGomes98/false_sense_of_security): 25 models on CIFAR-10, 200 test images, L-infinity,
epsilon 8/255 and 16/255.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd

__all__ = ["CORRELATIONS", "METRICS", "UNDEFENDED", "difference", "tables"]

#: Column of the tables and the measure that it is of, with its epsilon (of 255).
METRICS: Mapping[str, str] = MappingProxyType(
    {
        "cos8": "fgsm_pgd_cosine, 8",
        "cos16": "fgsm_pgd_cosine, 16",
        "pgd_col": "pgd_collinearity, 8",
        "lin8": "linearization_error, 8",
        "lin16": "linearization_error, 16",
        "grad_norm": "gradient_norm",
        "grad_info": "gradient_information",
    }
)
#: Pearson correlations of the heat map: with FGSM minus AutoAttack, and FGSM minus PGD, at 8/255.
CORRELATIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "cos8": (-0.85, -0.84),
        "cos16": (-0.83, -0.80),
        "pgd_col": (-0.81, -0.77),
        "lin8": (0.76, 0.75),
        "lin16": (0.59, 0.63),
        "grad_norm": (0.76, 0.83),
        "grad_info": (-0.45, -0.21),
    }
)
#: Models without any defence.
UNDEFENDED = ("ResNet-18 20ep", "Normal ResNet-18", "Normal WRN-28")


def tables() -> pd.DataFrame:
    """Tables 2 and 3, a row a model: accuracies (%) under attacks, and the seven measures.

    ``flagged`` is 1 for the six models that the author calls masking; ``fgsm-autoattack``,
    ``fgsm-pgd`` and ``pgd-autoattack`` are gaps of accuracy at 8/255, in points.
    """
    found = pd.read_csv(Path(__file__).with_name("published.csv"), index_col="model")
    found["fgsm-autoattack"] = found["fgsm8"] - found["aa8"]
    found["fgsm-pgd"] = found["fgsm8"] - found["pgd8"]
    found["pgd-autoattack"] = found["pgd8"] - found["aa8"]
    return found


def difference() -> float:
    """Largest difference of the 14 published correlations from those of the published tables.

    >>> difference() < 0.005
    True
    """
    found = tables()
    gaps = ("fgsm-autoattack", "fgsm-pgd")
    return max(
        abs(found[name].corr(found[gap]) - told)
        for name, values in CORRELATIONS.items()
        for gap, told in zip(gaps, values, strict=True)
    )
