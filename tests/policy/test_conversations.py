"""What messages hold and what prompts ask."""

from __future__ import annotations

import copy

import pytest

from common.errors import PromptError
from policy.conversations import checked_messages, clips_of, question_of, questions_of


def test_messages_are_copied_and_their_texts_made_plain():
    messages = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "video", "url": "file:///clips/1.mp4"},
                {"type": "text", "text": "happy?"},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    before = copy.deepcopy(messages)
    assert checked_messages(messages, str.upper) == [
        {"role": "system", "content": "BE BRIEF"},
        {
            "role": "user",
            "content": [
                {"type": "video", "url": "/clips/1.mp4"},
                {"type": "text", "text": "HAPPY?"},
            ],
        },
        {"role": "assistant", "content": "", "tool_calls": []},
    ]
    assert messages == before


def test_the_question_is_that_of_the_message_with_the_clip():
    video, text = {"type": "video"}, {"type": "text", "text": "Happy? "}
    later = {"role": "user", "content": "Sad?"}
    for content in ([video, text], [text, video]):
        assert question_of([{"role": "user", "content": content}, later]) == "Happy?"
    assert question_of([later]) is None


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("<|vision_start|><|video_pad|><|vision_end|> Happy?<end>\nNo.<stop>", "Happy?"),
        ("<s>[INST] Be brief. <|video_pad|>Happy? [/INST]", "Happy?"),
        ("Look: <|video_pad|>\nIs he\nsad?", "Is he\nsad?"),
    ],
)
def test_a_rendered_prompt_asks_from_its_clip_to_the_end_of_the_turn(text, question):
    assert questions_of([text], None, ["<stop>", "<end>", "[/INST]"]) == [question]


def test_given_questions_stand():
    assert questions_of(["<|video_pad|>a?"], "b?", []) == ["b?"]
    with pytest.raises(PromptError, match="an empty question"):
        questions_of(["<|video_pad|>a?"], [""], [])


def test_clips_go_to_their_texts():
    assert clips_of(["a", "b"], None, one_text=False) == [[], []]
    assert clips_of(["a"], "1.mp4", one_text=True) == [["1.mp4"]]
    assert clips_of(["a", "b"], ["1.mp4", "2.mp4"], one_text=False) == [["1.mp4"], ["2.mp4"]]
    assert clips_of(["a", "b"], [["1.mp4"], []], one_text=False) == [["1.mp4"], []]
    assert clips_of(["a"], ["1.mp4", "2.mp4"], one_text=True) == [["1.mp4", "2.mp4"]]
    with pytest.raises(PromptError, match="videos for 1 texts beside 2 texts"):
        clips_of(["a", "b"], "1.mp4", one_text=False)
