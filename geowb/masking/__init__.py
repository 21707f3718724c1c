"""How much a model hides its gradients: five measures, attacks, defences, a verdict.

>>> import torch
>>> from geowb.masking import fgsm_pgd_cosine
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
>>> x = 0.3 + 0.4 * torch.rand(2, 1, 8, 8)
>>> fgsm_pgd_cosine(model, x, torch.tensor([0, 1]), epsilon=0.1).round(decimals=3)
tensor([1., 1.])
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["comparing", "defences", "metrics", "pictures", "published", "steps", "subject"],
    submod_attrs={
        "attacks": ["accuracy", "fgsm", "pgd", "spsa"],
        "checks": ["checklist", "random_search"],
        "comparing": ["METRICS", "auroc", "correlations"],
        "defences": ["DEFENCES", "train"],
        "examining": ["examine"],
        "landscape": ["loss_along_gradient"],
        "mapping": ["pixel_maps"],
        "metrics": [
            "fgsm_pgd_cosine",
            "gradient_information",
            "gradient_norm",
            "linearization_error",
            "pgd_collinearity",
        ],
        "profiling": ["Profile", "profile"],
        "drawing": ["chip_samples", "pixel_range", "samples"],
        "strong": ["Attacked", "autoattack"],
    },
)
