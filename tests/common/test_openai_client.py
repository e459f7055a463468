"""The client against a real server on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.endpoint import Budget, Endpoint, Usage
from common.errors import ConfigError
from common.openai_client import (
    BudgetReached,
    Client,
    EndpointError,
    Question,
    QuestionError,
    parse_json,
)
from common.reply_cache import CachedReply, ReplyCache
from tests.common.endpoint import Answer, Server

ROOT = Path(__file__).parents[2]
SECRET = "sk-very-secret-0123456789"
PROVIDERS = "sk-of-a-provider-elsewhere"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PROVIDERS)
    monkeypatch.setenv("SERVER_API_KEY", SECRET)


def question(text: str = "q", **more: Any) -> Question:
    return Question(messages=[{"role": "user", "content": text}], read=parse_json, **more)


def client(server: Any, tmp_path: Path, **more: Any) -> Client:
    where = Endpoint(
        base_url=server.base_url,
        model="m",
        api_key_env="SERVER_API_KEY",
        input_price=2.0,
        output_price=10.0,
    )
    return Client(where, tmp_path / "replies.sqlite", **({"retries": 2} | more))


def echo(body: dict[str, Any], index: int) -> Any:
    return Answer(text=json.dumps({"said": body["messages"][-1]["content"]}))


def test_what_is_sent_and_what_comes_back(tmp_path: Path) -> None:
    with Server(echo) as server, client(server, tmp_path) as asks:
        reply = asks.submit(question("hello", parameters={"temperature": 0.5})).result()
        assert reply == {"said": "hello"}
        (asked,) = server.asked
        assert asked.path == "/v1/chat/completions"
        assert asked.headers["authorization"] == f"Bearer {SECRET}"
        assert asked.body == {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.5,
            "response_format": {"type": "json_object"},
        }
        assert asks.usage == Usage(requests=1, replies=1, input_tokens=10, output_tokens=5)
        assert asks.usage.cost(asks.endpoint) == pytest.approx((10 * 2 + 5 * 10) / 1e6)


def test_no_more_than_so_many_at_a_time(tmp_path: Path) -> None:
    def slow(body, index):
        return Answer(delay=0.1)

    with Server(slow) as server, client(server, tmp_path, concurrency=3) as asks:
        for future in [asks.submit(question(str(index))) for index in range(12)]:
            future.result()
        assert server.most_at_once == 3


def test_answers_come_as_they_are_there(tmp_path: Path) -> None:
    def uneven(body, index):
        return Answer(delay=1.0 if body["messages"][0]["content"] == "slow" else 0.0)

    with Server(uneven) as server, client(server, tmp_path) as asks:
        slow, quick = asks.submit(question("slow")), asks.submit(question("quick"))
        assert quick.result(timeout=0.9) == {}
        assert not slow.done()
        assert slow.result() == {}


@pytest.mark.parametrize(
    "trouble",
    [Answer(status=500), Answer(status=503), Answer(drop=True), Answer(delay=1.5)],
    ids=["500", "503", "dropped", "slow"],
)
def test_passing_trouble_is_asked_again(tmp_path: Path, trouble: Any) -> None:
    def answer(body, index):
        return trouble if index == 0 else Answer(text='{"a": 1}')

    with Server(answer) as server, client(server, tmp_path, timeout_seconds=1.0) as asks:
        assert asks.submit(question()).result() == {"a": 1}
        assert len(server.asked) == asks.usage.requests == 2
        assert asks.usage.replies == 1


def test_the_servers_retry_after_is_kept(tmp_path: Path) -> None:
    def answer(body, index):
        return Answer() if index else Answer(status=429, headers={"Retry-After": "1.2"})

    with Server(answer) as server, client(server, tmp_path) as asks:
        asks.submit(question()).result()
        first, second = (asked.time for asked in server.asked)
        assert 1.15 <= second - first < 2.5


def test_the_waits_grow(tmp_path: Path) -> None:
    with Server(lambda body, index: Answer(status=500)) as server:
        with client(server, tmp_path) as asks, pytest.raises(EndpointError, match="500"):
            asks.submit(question()).result()
        times = [asked.time for asked in server.asked]
        assert len(times) == 3
        assert 0.3 <= times[1] - times[0] <= 0.8  # .5 s less up to a quarter
        assert 0.7 <= times[2] - times[1] <= 1.4  # 1 s


@pytest.mark.parametrize(
    "body", [b'{"choices": [', b"[]", b'{"choices": []}', b"<html>gateway</html>"]
)
def test_a_body_that_is_no_completion_is_trouble(tmp_path: Path, body: bytes) -> None:
    with Server(lambda *_: Answer(body=body)) as server, client(server, tmp_path) as asks:
        assert isinstance(asks.submit(question()).exception(), EndpointError)


def test_an_endpoint_that_stays_away_is_left_alone(tmp_path: Path) -> None:
    with Server(lambda body, index: Answer(status=500)) as server:
        with client(server, tmp_path, concurrency=2, retries=0) as asks:
            futures = [asks.submit(question(str(index))) for index in range(20)]
            assert all(isinstance(future.exception(), EndpointError) for future in futures)
        assert len(server.asked) <= 4  # more than two in a row, and one under way


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_model_or_address_stops_everything(tmp_path: Path, status: int) -> None:
    def refuse(body, index):
        return Answer(status=status, text=f"Incorrect API key provided: {SECRET}")

    with Server(refuse) as server, client(server, tmp_path, concurrency=1) as asks:
        futures = [asks.submit(question(str(index))) for index in range(5)]
        errors = [future.exception() for future in futures]
        assert all(isinstance(error, ConfigError) for error in errors)
        assert len(server.asked) == 1
        error = errors[0]
        assert SECRET not in f"{error!r} {error} {error.__cause__!r}"
        assert error.__suppress_context__  # so that no traceback prints the key either
        assert "***" in str(error)


def test_a_refused_question_costs_itself_alone(tmp_path: Path) -> None:
    def answer(body, index):
        bad = body["messages"][0]["content"] == "bad"
        return Answer(status=400, text="policy") if bad else Answer()

    with Server(answer) as server, client(server, tmp_path) as asks:
        assert asks.submit(question("good")).result() == {}
        with pytest.raises(QuestionError, match="policy"):
            asks.submit(question("bad")).result()
        assert asks.submit(question("fine")).result() == {}


def test_an_endpoint_that_refuses_whatever_is_asked(tmp_path: Path) -> None:
    """Such as a parameter that the model does not know."""
    with Server(lambda *_: Answer(status=400, text="no such parameter")) as server:
        with client(server, tmp_path, concurrency=2) as asks:
            futures = [asks.submit(question(str(i), json_mode=False)) for i in range(30)]
            errors = [future.exception() for future in futures]
        assert isinstance(errors[-1], ConfigError)
        assert len(server.asked) <= 4


def test_json_mode_is_left_out_where_it_is_refused(tmp_path: Path) -> None:
    def answer(body, index):
        return Answer(status=400) if "response_format" in body else echo(body, index)

    with Server(answer) as server, client(server, tmp_path, concurrency=1) as asks:
        assert asks.submit(question("a")).result() == {"said": "a"}
        assert asks.submit(question("b")).result() == {"said": "b"}
        assert ["response_format" in asked.body for asked in server.asked] == [True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"b": 1}}',
        ' \n{"a": {"b": 1}}\n',
        '```json\n{"a": {"b": 1}}\n```',
        'Here it is:\n```\n{"a": {"b": 1}}\n```\nGood?',
        'Sure! {"a": {"b": 1}} I hope that helps.',
    ],
)
def test_json_is_found(text: str) -> None:
    assert parse_json(text) == {"a": {"b": 1}}


@pytest.mark.parametrize("text", ["", "no", "[1]", '{"a": 1', "null", "} {", "[" * 100_000])
def test_what_is_no_json_object(text: str) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        parse_json(text)


def test_an_unreadable_reply_is_asked_again_with_the_reason(tmp_path: Path) -> None:
    def answer(body, index):
        return Answer(text="I am not sure." if index == 0 else '{"a": 1}')

    with Server(answer) as server, client(server, tmp_path) as asks:
        assert asks.submit(question()).result() == {"a": 1}
        assert [message["role"] for message in server.asked[1].body["messages"]] == [
            "user",
            "assistant",
            "user",
        ]
        assert "not one JSON object" in server.asked[1].body["messages"][2]["content"]
    with Server(lambda *_: Answer(text="no")) as server, client(server, tmp_path) as asks:
        with pytest.raises(QuestionError, match="3 replies"):
            asks.submit(question("other")).result()
        assert len(server.asked) == 3


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with Server(echo) as server:
        with client(server, tmp_path) as asks:
            asks.submit(question("a")).result()
            assert asks.submit(question("a")).result() == {"said": "a"}
        with client(server, tmp_path) as again:
            assert again.submit(question("a")).result() == {"said": "a"}
            assert again.usage == Usage(cached=1)
            again.submit(question("a", parameters={"temperature": 1})).result()
            again.submit(question("b")).result()
        assert len(server.asked) == 3
        with client(server, tmp_path) as asks:
            for future in [asks.submit(question("at once")) for _ in range(5)]:
                assert future.result() == {"said": "at once"}
        assert len(server.asked) == 4
    assert SECRET.encode() not in (tmp_path / "replies.sqlite").read_bytes()


@pytest.mark.parametrize(
    ("budget", "sent"),
    [
        (Budget(max_requests=4), 4),
        (Budget(max_tokens=31), 3),  # 15 tokens each: after two 30 are used
        (Budget(max_cost=1.4e-4), 2),  # 7e-5 each
    ],
)
def test_the_budget_stops_cleanly_and_counts_on(tmp_path: Path, budget: Budget, sent: int) -> None:
    usage = Usage()
    with Server(echo) as server:
        with client(server, tmp_path, budget=budget, usage=usage, concurrency=1) as asks:
            futures = [asks.submit(question(str(index))) for index in range(8)]
            outcomes = [future.exception() for future in futures]
        assert [error is None for error in outcomes] == [True] * sent + [False] * (8 - sent)
        assert all(isinstance(error, BudgetReached) for error in outcomes[sent:])
        with client(server, tmp_path, budget=budget, usage=usage, concurrency=1) as asks:
            assert asks.submit(question("0")).result() == {"said": "0"}  # known: costs nothing
            with pytest.raises(BudgetReached):
                asks.submit(question("new")).result()
        assert len(server.asked) == sent
    assert f"{sent} replies" in usage.report(asks.endpoint)


def test_requests_under_way_count(tmp_path: Path) -> None:
    with Server(lambda *_: Answer(delay=0.2)) as server:
        budget = Budget(max_requests=5)
        with client(server, tmp_path, budget=budget, concurrency=8) as asks:
            futures = [asks.submit(question(str(index))) for index in range(20)]
            assert sum(future.exception() is None for future in futures) == 5
        assert len(server.asked) == 5


def test_leaving_does_not_wait_for_what_is_under_way(tmp_path: Path) -> None:
    with Server(lambda *_: Answer(delay=20.0)) as server:
        started = time.monotonic()
        with client(server, tmp_path, concurrency=1) as asks:
            futures = [asks.submit(question(str(index))) for index in range(3)]
            while not server.asked:
                time.sleep(0.01)
        assert time.monotonic() - started < 15  # one answer takes 20
        assert all(future.cancelled() for future in futures)
        assert len(server.asked) == 1


def test_servers_that_do_not_count_are_estimated(tmp_path: Path) -> None:
    uncounted = Answer(text='{"a": 123}', usage=None)
    with Server(lambda *_: uncounted) as server, client(server, tmp_path) as asks:
        asks.submit(question("x" * 40)).result()
        assert (asks.usage.input_tokens, asks.usage.output_tokens) == (10, 2)


def test_no_proxy_and_no_redirect_for_a_local_endpoint(tmp_path: Path, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with Server(echo) as other:

        def redirect(body, index):
            return Answer(status=307, headers={"Location": f"{other.base_url}/chat/completions"})

        with Server(echo) as server, client(server, tmp_path) as asks:
            assert asks.submit(question("direct")).result() == {"said": "direct"}
        with Server(redirect) as server, client(server, tmp_path) as asks:
            assert isinstance(asks.submit(question("redirected")).exception(), EndpointError)
        assert other.asked == []


def test_a_local_endpoint_never_sees_the_key_of_a_provider(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-a-provider")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-of-a-provider")
    refuse = Answer(status=401, text="a key, please")
    with Server(lambda body, index: refuse if index else Answer()) as server:
        where = Endpoint(base_url=server.base_url, model="m")
        with Client(where, tmp_path / "c.sqlite") as asks:
            assert asks.submit(question("a")).result() == {}
            error = asks.submit(question("b")).exception()
        assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer none"] * 2
        assert "of-a-provider" not in str([asked.headers for asked in server.asked])
    assert isinstance(error, ConfigError)
    assert "in api_key_env (OPENAI_API_KEY is not sent to this machine)" in error.fix


def test_which_key_is_sent_where(monkeypatch) -> None:
    local, away = "http://127.0.0.1:8000/v1", "https://api.example.org/v1"
    assert Endpoint(base_url=away, model="m").api_key() == PROVIDERS
    assert Endpoint(base_url=away, model="m", api_key_env="SERVER_API_KEY").api_key() == SECRET
    assert Endpoint(base_url=local, model="m", api_key_env="SERVER_API_KEY").api_key() == SECRET
    assert Endpoint(base_url=local, model="m").api_key() == "none"
    monkeypatch.delenv("SERVER_API_KEY")
    assert Endpoint(base_url=local, model="m", api_key_env="SERVER_API_KEY").api_key() == "none"


def test_a_key_is_needed_only_away_from_this_machine(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("SERVER_API_KEY")
    away = Endpoint(base_url="https://api.example.org/v1", model="m")
    with pytest.raises(ConfigError, match="no OPENAI_API_KEY"):
        Client(away, tmp_path / "c")
    with Server(echo) as server, client(server, tmp_path) as asks:
        assert asks.submit(question("a")).result() == {"said": "a"}


@pytest.mark.parametrize(
    ("url", "host", "local"),
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1:8000", True),
        ("http://localhost/v1", "localhost", True),
        ("http://[::1]:80/v1", "::1:80", True),
        ("https://user:pass@api.openai.com/v1", "api.openai.com", False),
        ("http://127.0.0.1.example.org", "127.0.0.1.example.org", False),
        ("http://localhost.example.org", "localhost.example.org", False),
        ("http://10.0.0.1", "10.0.0.1", False),
    ],
)
def test_hosts(url: str, host: str, local: bool) -> None:
    found = Endpoint(base_url=url, model="m")
    assert (found.host, found.is_local) == (host, local)


@pytest.mark.parametrize("url", ["", "api.openai.com", "file:///x", "http://", "http://a:b", "x:/"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        Endpoint(base_url=url, model="m").check()


PROGRAM = """
import sys
from pathlib import Path
from common.endpoint import Endpoint
from common.openai_client import Client, Question, parse_json
where = Endpoint(base_url=sys.argv[1], model="m")
with Client(where, Path(sys.argv[2]), concurrency=2) as client:
    futures = [client.submit(Question(messages=[{"role": "user", "content": str(index)}],
                                      read=parse_json)) for index in range(10)]
    for future in futures:
        future.result()
"""


def test_killed_and_started_again_it_repeats_no_answered_question(tmp_path: Path) -> None:
    def paced(body, index):
        return Answer(text="{}", delay=0.15)

    with Server(paced) as server:
        command = [sys.executable, "-c", PROGRAM, server.base_url, str(tmp_path / "c.sqlite")]
        victim = subprocess.Popen(command, cwd=ROOT)
        while len(server.asked) < 5:
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        time.sleep(0.3)
        before = [asked.body["messages"][0]["content"] for asked in server.asked]
        kept = ReplyCache(tmp_path / "c.sqlite")
        subprocess.run(command, cwd=ROOT, check=True, timeout=60)
        after = [asked.body["messages"][0]["content"] for asked in server.asked][len(before) :]
    assert len(set(before) | set(after)) == 10
    assert len(set(before) & set(after)) <= 2  # under way when it was killed
    assert len(after) == len(set(after))
    kept.close()


def test_processes_share_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.sqlite"
    one, other = ReplyCache(path), ReplyCache(path)
    reply = CachedReply(text="ä", input_tokens=1, output_tokens=2)
    one.put("k", reply)
    other.put("k", CachedReply(text="later", input_tokens=0, output_tokens=0))
    assert one.get("k") == other.get("k") == reply
    assert one.get("none") is None
    one.close()
    other.close()


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").write_text("not a database, but long enough to be taken for one" * 9)
    with pytest.raises(ConfigError, match="delete it"):
        ReplyCache(tmp_path / "c.sqlite")
