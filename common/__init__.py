"""Errors, configuration, metrics and progress that every other room uses. No torch, no ray."""
