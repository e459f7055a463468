"""DE-GRPO as pure functions of tensors (FaVChat v4, Eq. 7–16)."""
