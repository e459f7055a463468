"""Samples and where they come from: schema, mini corpus of real clips, rule-based writer."""
