"""DE-GRPO as pure functions of tensors (FaVChat v4, Eq. 7–16).

P samples in a step, G responses to each: rewards ``[P, G]``, Gram matrices ``[P, G, G]``; values,
weights and states ``[P]``; token tensors ``[P*G, T]``.
"""

from degrpo.algorithm.advantage import (
    BaselineStatistics,
    effective_sample_size,
    shrinkage_advantage,
    shrinkage_kappa,
)
from degrpo.algorithm.objective import importance_weights, policy_loss, response_coefficients
from degrpo.algorithm.sensitivity import gradient_sensitivity
from degrpo.algorithm.separability import reward_separability
from degrpo.algorithm.utility import (
    lifecycle_weight,
    lifecycle_zone,
    sample_utility,
    update_state,
    utility_drive,
    utility_threshold,
)

__all__ = [
    "BaselineStatistics",
    "effective_sample_size",
    "gradient_sensitivity",
    "importance_weights",
    "lifecycle_weight",
    "lifecycle_zone",
    "policy_loss",
    "response_coefficients",
    "reward_separability",
    "sample_utility",
    "shrinkage_advantage",
    "shrinkage_kappa",
    "update_state",
    "utility_drive",
    "utility_threshold",
]
