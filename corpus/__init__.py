"""Samples and where they come from: the schema, the mini corpus of real clips, the rule-based writer."""
