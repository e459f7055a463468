"""The prompt-query levels between pixels and language model (FaVChat v4 §2.1)."""
