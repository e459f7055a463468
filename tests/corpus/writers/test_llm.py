"""The language-model writer against a real server on this machine."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import ConfigError
from corpus.config import WriteConfig
from corpus.records import Pair, Problem, Texts
from corpus.schema import FacialTargets, Level, QuestionKind
from corpus.writers import find_writer
from corpus.writers.base import Unwritten
from corpus.writers.llm import Llm, endpoint_notice, feature_dictionary
from tests.common.endpoint import Answer, Server

SHOWN = ["brown_hair", "long_hair", "big_nose", "happy", "smile"]
SUMMARY = "A woman with long brown hair and a big nose looks happy and smiles at the camera."
PAIRS = [
    {
        "question": "What colour is her hair?",
        "answer": "Her hair is brown.",
        "kind": "appearance",
        "level": "low",
    },
    {"question": "How does she feel?", "answer": "She looks joyful.", "kind": "Emotion"},
]


def reply(**changes: Any) -> str:
    return json.dumps({"summary": SUMMARY, "pairs": PAIRS} | changes)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_API_KEY", "sk-test")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 frames of 800 by 400; frame t has the grey value 3 t."""
    path = tmp_path_factory.mktemp("clip") / "grey.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = 800, 400, "yuv420p"
        stream.bit_rate = 8_000_000
        for index in range(72):
            grey = np.full((400, 800, 3), 3 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def config(server: Any, **changes: Any) -> WriteConfig:
    found = WriteConfig(
        **{
            "writer": "llm",
            "base_url": server.base_url,
            "model": "m",
            "api_key_env": "SERVER_API_KEY",
            "max_images": 0,
        }
        | changes
    )
    found.check()
    return found


def write(server: Any, tmp_path: Path, assignments, **changes: Any) -> list[Texts | Unwritten]:
    return list(Llm(config(server, **changes), tmp_path).write(assignments))


def content(asked: Any) -> list[dict[str, Any]]:
    return asked.body["messages"][1]["content"]


def test_pictures_and_features_go_out_and_texts_come_back(assign, tmp_path, clip) -> None:
    assignment = assign(SHOWN, ["wearing_hat"], video=clip)
    with Server(lambda *_: Answer(text=reply())) as server:
        (texts,) = write(server, tmp_path, [assignment], max_images=8, frame_step=16)
    assert texts == Texts(
        cut_id="a",
        summary=SUMMARY,
        writer=texts.writer,
        pairs=(
            Pair(
                question="What colour is her hair?",
                answer="Her hair is brown.",
                targets=FacialTargets(attributes=("brown hair",)),
                kind=QuestionKind.APPEARANCE,
                level=Level.LOW,
            ),
            Pair(
                question="How does she feel?",
                answer="She looks joyful.",
                targets=FacialTargets(emotion=("happy",)),
                kind=QuestionKind.EMOTION,
                level=Level.HIGH,
            ),
        ),
    )
    assert texts.writer.startswith("llm:m@")
    text, *pictures = content(server.asked[0])
    for said in ('"brown hair"', '"not seen": ["a hat"]', '"emotion, in order of time": ["happy"]'):
        assert said in text["text"]
    greys = []
    for picture in pictures:
        kind, data = picture["image_url"]["url"].split(",")
        assert kind == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (image.format, image.size) == ("JPEG", (512, 256))
        greys.append(np.asarray(image).mean())
    # 72 frames, 16 apart: five pictures from the middles of five equal parts.
    assert greys == pytest.approx([3 * frame for frame in (7, 21, 36, 50, 64)], abs=6)


def test_texts_are_kept_under_all_that_decides_them(tmp_path) -> None:
    def name(**changes: Any) -> str:
        local = WriteConfig(writer="llm", base_url="http://127.0.0.1/v1", model="m", **changes)
        return Llm(local, tmp_path).name

    assert name().startswith("llm:m@")
    assert name() == name(concurrency=3, max_requests=7)
    changes = [
        {},
        {"max_images": 4},
        {"frame_step": 4},
        {"send_features": False},
        {"parameters": {"temperature": 1.0}},
    ]
    assert len({name(**change) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("step", "most", "expected"), [(16, 3, 3), (16, 0, 0), (4, 100, 18), (100, 8, 1)]
)
def test_how_many_pictures_are_sent(assign, tmp_path, clip, step, most, expected) -> None:
    with Server(lambda *_: Answer(text=reply())) as server:
        write(server, tmp_path, [assign(SHOWN, video=clip)], max_images=most, frame_step=step)
    sent = content(server.asked[0])
    assert (0 if isinstance(sent, str) else len(sent) - 1) == expected


def test_features_can_be_left_to_the_model(assign, tmp_path, clip) -> None:
    with Server(lambda *_: Answer(text=reply())) as server:
        write(server, tmp_path, [assign(SHOWN, video=clip)], send_features=False, max_images=1)
    assert "brown" not in json.dumps(server.asked[0].body["messages"][1])[:200]


def test_a_schema_takes_the_place_of_json_mode(assign, tmp_path) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "texts", "schema": {}}}
    parameters = {"temperature": None, "response_format": wanted}
    with Server(lambda *_: Answer(text=reply())) as server:
        write(server, tmp_path, [assign(SHOWN)], parameters=parameters)
    body = server.asked[0].body
    assert body["response_format"] == wanted
    assert set(body) == {"model", "messages", "response_format"}


def test_features_as_the_model_is_told(features) -> None:
    assert feature_dictionary(features(["bangs", "sad", "cry"], ["smile"])) == {
        "appearance": ["bangs"],
        "emotion, in order of time": ["sad"],
        "action": ["crying"],
        "not seen": ["smiling"],
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"summary": ""}, '"summary" of the object'),
        ({"summary": ["x"]}, '"summary" of the object'),
        ({"pairs": PAIRS[:1]}, "2 to 4"),
        ({"pairs": PAIRS * 3}, "2 to 4"),
        ({"pairs": "none"}, "2 to 4"),
        ({"pairs": [PAIRS[0], "x"]}, "pair 2 is an object"),
        ({"pairs": [PAIRS[0], PAIRS[1] | {"kind": "mood"}]}, '"kind" of pair 2 is one of'),
        ({"pairs": [PAIRS[0] | {"level": "top"}, PAIRS[1]]}, '"level" of pair 1 is one of'),
        ({"pairs": [PAIRS[0] | {"answer": None}, PAIRS[1]]}, '"answer" of pair 1'),
    ],
)
def test_a_reply_of_another_form_is_sent_back(assign, tmp_path, wrong, said) -> None:
    def answer(body, index):
        return Answer(text=reply(**wrong) if index == 0 else reply())

    with Server(answer) as server:
        (texts,) = write(server, tmp_path, [assign(SHOWN)])
    assert texts.summary == SUMMARY
    assert said in server.asked[1].body["messages"][-1]["content"]


def test_what_was_refused_is_told_on_the_second_attempt(assign, tmp_path) -> None:
    problem = Problem(cut_id="a", where="pair 2", rule="contradiction", detail="says 'a hat'")
    with Server(lambda *_: Answer(text=reply())) as server:
        write(server, tmp_path, [assign(SHOWN)])
        (texts,) = write(server, tmp_path, [assign(SHOWN, attempt=1, problems=(problem,))])
    assert texts.attempt == 1
    assert len(server.asked) == 2
    assert "pair 2: contradiction: says 'a hat'" in content(server.asked[1])


def test_every_assignment_gets_one_outcome(assign, tmp_path, clip) -> None:
    """Also with more of them than are sent at a time, and with broken clips among them."""

    def answer(body, index):
        if "broken model" in json.dumps(body["messages"][1]["content"]):
            return Answer(text="no JSON, whatever is asked")
        return Answer(text=reply(), delay=0.05 * (index % 3))

    assignments = [assign(SHOWN, cut_id=f"c{index}", video=clip) for index in range(12)]
    assignments[5] = replace(assignments[5], video=tmp_path / "missing.mp4")
    told = Problem(cut_id="c7", where="summary", rule="x", detail="broken model")
    assignments[7] = replace(assignments[7], problems=(told,))
    with Server(answer) as server:
        outcomes = write(server, tmp_path, assignments, max_images=1, concurrency=2)
    by_id = {outcome.cut_id: outcome for outcome in outcomes}
    assert len(outcomes) == len(by_id) == 12
    missing, unreadable = by_id.pop("c5"), by_id.pop("c7")
    assert missing.final
    assert "missing.mp4" in missing.reason
    assert unreadable.final
    assert "cannot be used" in unreadable.reason
    assert all(isinstance(outcome, Texts) for outcome in by_id.values())
    assert server.most_at_once <= 2


def test_clips_are_drawn_no_faster_than_they_are_sent(assign, tmp_path) -> None:
    taken = []

    def assignments():
        for index in range(40):
            taken.append(index)
            yield assign(
                [*SHOWN, "bangs"],
                cut_id=str(index),
                problems=(Problem(cut_id="", where="", rule="", detail=str(index)),),
            )

    with Server(lambda *_: Answer(text=reply(), delay=0.02)) as server:
        outcomes = Llm(config(server, concurrency=2), tmp_path).write(assignments())
        next(outcomes)
        assert len(taken) <= 4
        assert len(list(outcomes)) == 39


def test_a_budget_leaves_the_rest_for_the_next_time(assign, tmp_path) -> None:
    def clips():
        told = [Problem(cut_id="", where="", rule="", detail=str(index)) for index in range(6)]
        return [assign(SHOWN, cut_id=f"c{i}", problems=(told[i],)) for i in range(6)]

    with Server(lambda *_: Answer(text=reply())) as server:
        first = write(server, tmp_path, clips(), max_requests=4, concurrency=1)
        left = [outcome for outcome in first if isinstance(outcome, Unwritten)]
        assert len(left) == 2
        assert not any(outcome.final for outcome in left)
        assert "max_requests=4" in left[0].reason
        writer = Llm(config(server), tmp_path)
        assert all(isinstance(outcome, Texts) for outcome in writer.write(clips()))
        assert (writer.usage.cached, writer.usage.requests, len(server.asked)) == (4, 2, 6)
        assert "2 requests, 2 replies, 4 from the cache, 20 + 10 tokens" in writer.report()


def test_one_budget_for_all_attempts(assign, tmp_path) -> None:
    with Server(lambda *_: Answer(text=reply())) as server:
        writer = Llm(config(server, max_requests=1), tmp_path)
        assert isinstance(next(writer.write([assign(SHOWN)])), Texts)
        (second,) = writer.write([assign([*SHOWN, "bangs"])])
        assert isinstance(second, Unwritten)


@pytest.mark.slow  # waits as long as the back-off does
def test_an_endpoint_that_is_away_costs_no_clip_for_good(assign, tmp_path) -> None:
    with Server(lambda *_: Answer()) as server:
        gone = config(server, concurrency=1)
    (outcome,) = Llm(gone, tmp_path).write([assign(SHOWN)])
    assert isinstance(outcome, Unwritten)
    assert not outcome.final


def test_a_refused_key_stops_the_build(assign, tmp_path) -> None:
    refuse = Answer(status=401, text="bad key sk-test")
    with Server(lambda *_: refuse) as server, pytest.raises(ConfigError, match="KEY") as caught:
        write(server, tmp_path, [assign(SHOWN)])
    assert "sk-test" not in str(caught.value)


def test_given_texts_stay_and_full_ones_ask_nothing(assign, tmp_path) -> None:
    given = Pair(question="?", answer="!", targets=FacialTargets(), kind=QuestionKind.DESCRIPTION)
    with Server(lambda *_: Answer(text=reply())) as server:
        some, every = (
            write(server, tmp_path, [assign(SHOWN, given_summary="Given.", given_pairs=pairs)])[0]
            for pairs in ((), (given,))
        )
        assert len(server.asked) == 1
    assert (some.summary, len(some.pairs)) == ("Given.", 2)
    assert (every.summary, every.pairs) == ("Given.", (given,))


def test_the_notice_says_what_leaves_and_where_to(tmp_path) -> None:
    away = WriteConfig(writer="llm", base_url="https://api.openai.com/v1", model="gpt-4o")
    assert endpoint_notice(away, 22) == (
        "faces leave this machine: up to 8 pictures of each of 22 clips (176 in all) go to "
        "api.openai.com, model gpt-4o, with the clips' features"
    )
    plain = replace(away, base_url="http://10.0.0.1:8000/v1", send_features=False)
    assert endpoint_notice(plain) == (
        "faces leave this machine: up to 8 pictures of each clip go to 10.0.0.1:8000 "
        "(unencrypted: http), model gpt-4o"
    )
    local = replace(away, base_url="http://localhost:8000/v1")
    assert endpoint_notice(local).startswith("nothing leaves this machine: up to 8 pictures")
    texts = replace(away, max_images=0)
    assert endpoint_notice(texts, 3).startswith("texts about faces leave this machine: no pictures")


def test_a_missing_key_is_met_before_anything_is_built(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    away = WriteConfig(writer="llm", base_url="https://api.openai.com/v1", model="gpt-4o")
    with pytest.raises(ConfigError, match="export OPENAI_API_KEY"):
        find_writer(away, tmp_path)


def schema() -> dict[str, Any]:
    """Texts of the wanted form, short enough for a model of 135M parameters on a CPU."""
    text = {"type": "string", "minLength": 10, "maxLength": 60}
    fields = {"question": text, "answer": text, "kind": {"enum": ["emotion"]}}
    pair = {
        "type": "object",
        "additionalProperties": False,
        "required": list(fields),
        "properties": fields,
    }
    pairs = {"type": "array", "items": pair, "minItems": 2, "maxItems": 2}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["summary", "pairs"],
        "properties": {"summary": text, "pairs": pairs},
    }


@pytest.fixture
def vllm_server(tmp_path: Path) -> Iterator[str]:
    """The address of vLLM's own server with the embedded SmolLM2, asked with a key."""
    from policy.language import load_language_model

    folder = tmp_path / "smollm2"
    model, tokenizer = load_language_model("smollm2-135m", seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = "--max-model-len 2048 --dtype float32 --enforce-eager --served-model-name smol"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options.split()]
    command += ["--model", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "VLLM_API_KEY": "sk-test",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "server.log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 300) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            direct.open(address, timeout=2).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"vLLM's server did not start:\n{log.read_text()[-3000:]}")


@pytest.mark.engine
@pytest.mark.slow
def test_vllms_own_server(assign, tmp_path, vllm_server, monkeypatch) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "texts", "schema": schema()}}
    server = WriteConfig(
        writer="llm",
        base_url=vllm_server,
        model="smol",
        api_key_env="SERVER_API_KEY",
        max_images=0,
        concurrency=2,
        parameters={"temperature": 0.0, "max_tokens": 250, "response_format": format_},
    )
    assignments = [assign([emotion], cut_id=emotion) for emotion in ("happy", "sad")]
    writer = Llm(server, tmp_path)
    outcomes = {outcome.cut_id: outcome for outcome in writer.write(assignments)}
    for emotion, texts in outcomes.items():
        assert isinstance(texts, Texts)
        assert texts.summary
        assert [pair.targets.emotion for pair in texts.pairs] == [(emotion,)] * 2
    assert writer.usage.replies == 2
    assert writer.usage.input_tokens > 2 * 300  # the server's count of the instructions
    assert 0 < writer.usage.output_tokens <= 500
    again = Llm(server, tmp_path)
    assert {outcome.cut_id: outcome for outcome in again.write(assignments)} == outcomes
    assert again.usage.requests == 0
    # Another key is refused, an unknown model too: before anything of this kind is written.
    with pytest.raises(ConfigError, match="model"):
        list(Llm(replace(server, model="none"), tmp_path).write(assignments))
    monkeypatch.setenv("SERVER_API_KEY", "sk-wrong")
    with pytest.raises(ConfigError, match="SERVER_API_KEY") as caught:
        list(Llm(server, tmp_path / "empty").write(assignments))
    assert "sk-wrong" not in str(caught.value)
