"""Reward functions, the facial fine-grained reward, and the service that runs them."""
