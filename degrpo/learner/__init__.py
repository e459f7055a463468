"""The learner: policy, value critic, gradient statistics from one backward, optimiser."""
