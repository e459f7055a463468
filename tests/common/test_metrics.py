"""common.metrics: what is written can be read back, also after a crash and a resume."""

import json
import math
import subprocess
import sys

import pytest

from common.errors import CheckpointError, ConfigError
from common.metrics import MetricsWriter, check_metric_name, read_metrics


def tensorboard_scalars(run_dir, tag):
    """(step, value) as TensorBoard itself would show them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_writes_one_json_line_a_step_and_tensorboard(tmp_path):
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(0, {"reward/total/mean": 0.25, "rollout/tokens": 120})
        metrics.write(1, {"reward/total/mean": 0.5, "rollout/tokens": None})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 0, "reward/total/mean": 0.25, "rollout/tokens": 120},
        {"step": 1, "reward/total/mean": 0.5, "rollout/tokens": None},
    ]
    assert read_metrics(tmp_path) == [json.loads(line) for line in lines]
    assert tensorboard_scalars(tmp_path, "reward/total/mean") == [(0, 0.25), (1, 0.5)]
    assert tensorboard_scalars(tmp_path, "rollout/tokens") == [(0, 120.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_becomes_null(tmp_path, value):
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(3, {"loss/policy": value, "loss/critic": 1.5})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 3, "loss/policy": null, "loss/critic": 1.5}\n'
    )


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    metrics = MetricsWriter(tmp_path)
    metrics.write(0, {"time/step": 2.0})
    assert read_metrics(tmp_path) == [{"step": 0, "time/step": 2.0}]
    assert tensorboard_scalars(tmp_path, "time/step") == [(0, 2.0)]
    metrics.close()


@pytest.mark.parametrize(
    "name", ["accuracy/mean", "loss", "loss/", "loss//mean", "loss/policy mean", "/loss/mean", ""]
)
def test_refuses_other_names(tmp_path, name):
    with pytest.raises(ConfigError):
        check_metric_name(name)
    metrics = MetricsWriter(tmp_path)
    with pytest.raises(ConfigError):
        metrics.write(0, {"loss/policy": 1.0, name: 1.0})
    assert read_metrics(tmp_path) == []  # all or nothing


def test_refuses_to_go_back_without_rewind(tmp_path):
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(5, {"time/step": 1.0})
    with MetricsWriter(tmp_path) as metrics, pytest.raises(ConfigError, match="after step 5"):
        metrics.write(4, {"time/step": 1.0})


def test_lines_of_one_step_are_merged(tmp_path):
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(0, {"eval/pool/before": 0.25})
        metrics.write(0, {"loss/policy": 2.0})
    assert read_metrics(tmp_path) == [{"step": 0, "eval/pool/before": 0.25, "loss/policy": 2.0}]


def test_rewind_and_resume_leave_the_steps_of_one_run(tmp_path):
    with MetricsWriter(tmp_path) as metrics:
        for step in range(5):
            metrics.write(step, {"reward/total/mean": step / 8})
    with MetricsWriter(tmp_path) as metrics:
        metrics.rewind(3)
        assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]
        metrics.write(3, {"reward/total/mean": 0.75})
    assert read_metrics(tmp_path)[3] == {"step": 3, "reward/total/mean": 0.75}
    assert tensorboard_scalars(tmp_path, "reward/total/mean") == [
        (0, 0.0),
        (1, 0.125),
        (2, 0.25),
        (3, 0.75),
    ]


def test_rewind_to_before_the_first_step(tmp_path):
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(0, {"time/step": 1.0})
        metrics.rewind(0)
        assert read_metrics(tmp_path) == []
        metrics.write(0, {"time/step": 2.0})
    assert tensorboard_scalars(tmp_path, "time/step") == [(0, 2.0)]


def test_a_half_written_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "time/step": 1.0}\n{"step": 1, "time/s')
    assert read_metrics(tmp_path) == [{"step": 0, "time/step": 1.0}]
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(1, {"time/step": 2.0})
    assert [row["time/step"] for row in read_metrics(tmp_path)] == [1.0, 2.0]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"loss/policy": 1.0}'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n' + line + "\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl line 2"):
        read_metrics(tmp_path)


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path) == []


def test_needs_neither_torch_nor_tensorflow(tmp_path):
    code = (
        "import sys; from common.metrics import MetricsWriter\n"
        f"w = MetricsWriter({str(tmp_path)!r}); w.write(0, {{'time/step': 1.0}}); w.close()\n"
        "print([m for m in ('torch', 'tensorflow', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
