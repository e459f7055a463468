"""The value critic V(x): how much reward a prompt's responses earn on average."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueCritic(nn.Module):
    """V(x) from the policy's last hidden state at the prompt's last position.

    That position has seen the whole prompt, clip included, and nothing of any response, so that V
    is a baseline (Eq. 13). The hidden state is detached: the critic never moves the policy. The
    last layer starts at zero, so that V(x) = 0 before the first step.

    Args:
        hidden_size: H, width of the language model.
        width: units of the one hidden layer.
    """

    def __init__(self, hidden_size: int, width: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.hidden = nn.Linear(hidden_size, width)
        self.value = nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Values ``[P]`` of features ``[P, H]``."""
        hidden = torch.nn.functional.gelu(self.hidden(self.norm(features.detach().float())))
        return self.value(hidden).squeeze(-1)


def fit_critic(
    critic: ValueCritic, optimizer: torch.optim.Optimizer, features: Tensor, targets: Tensor
) -> float:
    """One step on the mean squared error to the groups' mean rewards; the loss before the step.

    Args:
        features: ``[P, H]``.
        targets: ``[P]``, mean reward of each group.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = torch.nn.functional.mse_loss(critic(features), targets.float())
    loss.backward()
    optimizer.step()
    return loss.item()
