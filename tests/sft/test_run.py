"""The three stages from end to end on a tiny policy."""

from __future__ import annotations

import json

from sft.run import run_stages


def test_three_stages(sft, corpus, tiny):
    folder = run_stages(sft, tiny, corpus)
    print(json.loads((folder / "metrics.json").read_text()))
