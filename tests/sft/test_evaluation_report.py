"""What a person sees: tables, TensorBoard, answers to read."""

from __future__ import annotations

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.metrics import check_metric_name
from sft.evaluation.records import AnswerRecord, Evaluation, PartReading
from sft.evaluation.report import (
    answers_table,
    pick_answers,
    scalars,
    stages_table,
    to_markdown,
    write_report,
    write_tensorboard,
)
from sft.evaluation.scoring import (
    AnswerLoss,
    score,
    score_ablation,
    score_kinds,
    score_levels,
    score_strata,
)

RIGHT = PartReading(right=("happy",))
WRONG = PartReading(wrong=("sad",), missed=("happy",))


def record(sample_id, *, level="high", kind="emotion", reading=RIGHT, **changes):
    fields = {
        "video": f"/clips/{sample_id}.mp4",
        "question": "What emotion?",
        "gold": "She looks happy.",
        "answer": "She looks sad.",
        "stratum": "noisy",
        "truncated": False,
        "loss": 3.0,
        "num_correct": 1,
        "num_tokens": 4,
        "readings": {"emotion": reading},
    }
    return AnswerRecord(sample_id=sample_id, level=level, kind=kind, **fields | changes)


def evaluation_of(*answers: AnswerRecord, skipped=None, cost=2.0) -> Evaluation:
    intact = {a.sample_id: AnswerLoss(a.loss, a.num_correct, a.num_tokens) for a in answers}
    swapped = {a.sample_id: AnswerLoss(a.loss + cost, 0, a.num_tokens) for a in answers}
    videos = {a.sample_id: a.video for a in answers}
    return Evaluation(
        overall=score(answers),
        levels=score_levels(answers),
        kinds=score_kinds(answers),
        strata=score_strata(answers),
        ablations={"swapped_clips": score_ablation(swapped, intact, videos)} if answers else {},
        answers=answers,
        skipped=skipped or {},
    )


def test_the_table_over_stages_holds_values_with_intervals():
    first = evaluation_of(record("a", reading=WRONG), record("b", reading=WRONG))
    second = evaluation_of(
        record("a"), record("b", loss=1.0), record("c", level="low"), skipped={"d": "no video"}
    )
    table = stages_table({"stage 1": first, "stage 2": second})
    assert table[0] == ["", "stage 1", "stage 2"]
    cells = {row[0]: row[1:] for row in table}
    assert list(cells)[1:4] == [
        "low level: F1 of all facts",
        "high level: F1 of all facts",
        "low level: loss a token",
    ]  # nothing is known of the middle level
    assert cells["low level: F1 of all facts"] == ["", "1.00"]  # one clip, no interval
    assert cells["emotion accuracy"] == ["0.00 (0.00 to 0.00)", "1.00 (1.00 to 1.00)"]
    assert cells["high level: loss a token"] == ["0.75 (0.75 to 0.75)", "0.50 (0.25 to 0.75)"]
    assert cells["loss increase: clips swapped"] == ["0.500 (0.500 to 0.500)"] * 2
    assert cells["answers"] == ["2", "3"]
    assert cells["samples skipped"] == ["0", "1"]
    assert "attribute F1" not in cells


def test_a_small_decrease_is_no_negative_zero():
    table = stages_table({"stage 1": evaluation_of(record("a"), record("b"), cost=-0.0001)})
    assert ["loss increase: clips swapped", "0.000 (0.000 to 0.000)"] in table


def test_an_empty_evaluation_has_a_column_too():
    table = stages_table({"stage 1": evaluation_of(skipped={"a": "no video"})})
    assert table == [["", "stage 1"], ["answers", "0"], ["samples skipped", "1"]]


def test_markdown_shows_markup_as_it_was_said():
    table = [["", "a|b"], ["<video>", "*x* [y]\nz"]]
    assert to_markdown(table) == (
        "|  | a\\|b |\n| --- | --- |\n| &lt;video&gt; | \\*x\\* \\[y] z |\n"
    )


def test_the_report_has_a_column_a_stage_and_the_last_ones_answers(tmp_path):
    first, last = evaluation_of(record("a")), evaluation_of(record("b", answer="Last words."))
    path = write_report(tmp_path, {"stage 1": first, "stage 2": last})
    text = path.read_text()
    assert path.name == "evaluation.md"
    assert "|  | stage 1 | stage 2 |" in text
    assert "Last words." in text
    assert text.count("What emotion?") == 1


def test_answers_to_read_take_kinds_and_levels_in_turn_and_stay_the_same():
    answers = [record(f"e{i}") for i in range(5)]
    answers += [record("l0", kind="appearance", level="low")]
    answers += [record(f"m{i}", kind="appearance", level="mid") for i in range(2)]
    picked = [a.sample_id for a in pick_answers(answers, 5)]
    assert picked == ["l0", "m0", "e0", "m1", "e1"]
    assert [a.sample_id for a in pick_answers(answers[::-1], 5)] == picked
    assert len(pick_answers(answers, 100)) == 8


def test_answers_are_shown_beside_gold():
    text = answers_table([record("a"), record("b", answer="She | looks", truncated=True)])
    lines = text.splitlines()
    assert lines[0] == "| clip | kind | level | question | gold | answer | loss a token |"
    assert lines[2] == (
        "| a.mp4 | emotion | high | What emotion? | She looks happy. | She looks sad. | 0.75 |"
    )
    assert "| She \\| looks … |" in lines[3]


def test_scalars_are_metrics_by_name():
    values = scalars(evaluation_of(record("a"), record("b", reading=WRONG, level="low")))
    for name in values:
        check_metric_name(name)
    assert values["eval/all/emotion/accuracy"] == 0.5
    assert values["eval/level_low/emotion/f1"] == 0
    assert values["eval/level_high/loss"] == 0.75
    assert values["eval/kind_emotion/token_accuracy"] == 0.25
    assert values["eval/stratum_noisy/num_answers"] == 2
    assert values["eval/ablation_swapped_clips/loss_increase"] == 0.5


def test_tensorboard_gets_the_scalars_and_the_answers(tmp_path):
    evaluation = evaluation_of(record("a"), record("b", truncated=True))
    write_tensorboard(evaluation, tmp_path, step=30)
    events = EventAccumulator(str(tmp_path)).Reload()
    for name, value in scalars(evaluation).items():
        (event,) = events.Scalars(name)
        assert (event.step, round(event.value, 5)) == (30, round(value, 5))
    (text,) = events.Tensors("eval/answers/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert shown == answers_table(evaluation.answers)
    assert text.step == 30
