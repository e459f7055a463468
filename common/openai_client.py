"""Asking any OpenAI-compatible endpoint: many questions at a time, none twice, within a budget.

    submit(question) -> cache -> budget -> endpoint -> cache -> read -> Future
                          | known           | 429, 5xx, dropped: the openai package asks again
                          +-----------------+---- reply that cannot be read: asked again, with why

Failures are told apart by what they cost: :class:`QuestionError` one question,
:class:`BudgetReached` and :class:`EndpointError` everything that was not sent yet, ``ConfigError``
(wrong key, unknown model) the run. The key comes from the environment and is in no message.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

from common.endpoint import NO_KEY, Budget, Endpoint, Usage
from common.errors import ConfigError, FaVChatError, MachineError, SampleError
from common.reply_cache import CachedReply, ReplyCache

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
Message = Mapping[str, Any]

CHARACTERS_PER_TOKEN = 4  # for servers that do not count


class QuestionError(SampleError):
    """A question that the endpoint refuses, or whose reply cannot be used."""


class EndpointError(MachineError):
    """An endpoint that does not answer, after all retries."""


class BudgetReached(FaVChatError, RuntimeError):  # noqa: N818 - not an error: a limit that was set
    """The budget is used up; what was answered is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Generic[T]):
    """One question to a model."""

    messages: Sequence[Message]  # as the chat completions API takes them
    read: Callable[[str], T]  # from the reply's text; ValueError says what is wrong with it
    json_mode: bool = True  # unless parameters hold a response_format of their own
    parameters: Mapping[str, Any] = field(default_factory=dict)  # such as temperature, max_tokens


def parse_json(text: str) -> dict[str, Any]:
    """The JSON object in a reply: the whole, inside fences, or from first to last brace.

    Raises:
        ValueError: when there is none.
    """
    fenced = re.search(r"```(?:json)?\s*\n?(.*?)```", text, flags=re.DOTALL)
    braces = re.search(r"\{.*\}", text, flags=re.DOTALL)
    candidates = [text, fenced and fenced.group(1), braces and braces.group()]
    for candidate in candidates:
        try:
            value = json.loads(candidate or "")
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise ValueError("the reply is not one JSON object")


class Client:
    """Asks an endpoint from a thread of its own, so that callers need not be asynchronous.

    Args:
        usage: counted on; pass the same one again to go on within one budget.
        concurrency: requests under way at a time.
        retries: of one request, by the openai package: exponential back-off with jitter, or as
            long as the server's Retry-After says.
        attempts: replies that cannot be read are asked for again, so many times in all.

    Raises:
        ConfigError: for an address that is none, or a missing key.

    Example:
        >>> with Client(endpoint, Path("cache/replies.sqlite")) as client:
        ...     client.submit(Question(messages=messages, read=parse_json)).result()
        {'summary': 'A man smiles.'}
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: Path,
        *,
        budget: Budget | None = None,
        usage: Usage | None = None,
        concurrency: int = 8,
        retries: int = 5,
        attempts: int = 3,
        timeout_seconds: float = 120.0,
    ) -> None:
        endpoint.check()
        self.endpoint, self.budget = endpoint, budget or Budget()
        self.usage = usage or Usage()
        self._key = endpoint.api_key()
        self._cache_path = cache
        self._concurrency, self._attempts = concurrency, attempts
        self._retries, self._timeout = retries, timeout_seconds
        self._json_mode = True  # until the endpoint refuses it
        self._stopped: FaVChatError | None = None  # why nothing more is sent
        self._failures = 0  # in a row
        self._refusals = 0
        self._under_way = 0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __enter__(self) -> Client:
        self._cache = ReplyCache(self._cache_path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._openai = self._run(self._connect())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._cache.close()

    def submit(self, question: Question[T]) -> Future[T]:
        """Ask; the future holds what ``question.read`` made of the reply.

        It raises QuestionError, EndpointError, BudgetReached, or ConfigError for a wrong key, an
        unknown model or a wrong address.
        """
        return asyncio.run_coroutine_threadsafe(self._ask(question), self._loop)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _connect(self) -> openai.AsyncOpenAI:
        import openai

        async def count(_: Any) -> None:
            self.usage.requests += 1

        self._places = asyncio.Semaphore(self._concurrency)
        # Redirects would carry what is sent to another host than the one that was announced.
        client = openai.AsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self._key,
            max_retries=self._retries,
            timeout=self._timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                trust_env=not self.endpoint.is_local,  # no proxy for this machine itself
                follow_redirects=False,
                event_hooks={"request": [count]},
            ),
        )
        if self.endpoint.keeps_key:  # the package takes these from the environment as well
            client.organization = client.project = None
        return client

    async def _disconnect(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._openai.close()

    async def _ask(self, question: Question[T]) -> T:
        messages = list(question.messages)
        wrong = ""
        for _ in range(self._attempts):
            text = await self._reply(question, messages)
            try:
                return question.read(text)
            except ValueError as error:
                wrong = str(error)
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"That cannot be used: {wrong}. Answer again."},
            ]
        raise QuestionError(
            f"{self._attempts} replies of {self.endpoint.model} that cannot be used",
            f"the last one: {wrong}",
            "try another model, or one that offers JSON mode",
        )

    async def _reply(self, question: Question[Any], messages: Sequence[Message]) -> str:
        """The reply's text, from the cache or from the endpoint."""
        key = ReplyCache.key(
            {
                "model": self.endpoint.model,
                "messages": messages,
                "json_mode": question.json_mode,
                "parameters": dict(question.parameters),
            }
        )
        # Equal questions wait for the first one's reply.
        async with self._locks.setdefault(key, asyncio.Lock()), self._places:
            if found := self._cache.get(key):
                self.usage.cached += 1
                return found.text
            self._admit()
            self._under_way += 1
            try:
                reply = await self._send(question, messages)
            finally:
                self._under_way -= 1
            self._cache.put(key, reply)
        self.usage.replies += 1
        self.usage.input_tokens += reply.input_tokens
        self.usage.output_tokens += reply.output_tokens
        return reply.text

    def _admit(self) -> None:
        """Raise what stopped the client, or BudgetReached."""
        if self._stopped is not None:
            raise self._stopped
        limit, used = self.budget, self.usage
        tokens, cost = used.input_tokens + used.output_tokens, used.cost(self.endpoint)
        # Requests can be counted before they are sent, tokens only when their reply is there.
        requests = max(used.requests, used.replies + self._under_way)
        for name, value, most in (
            ("max_requests", requests, limit.max_requests),
            ("max_tokens", tokens, limit.max_tokens),
            ("max_cost", cost, limit.max_cost),
        ):
            if most and value >= most:
                self._stopped = BudgetReached(
                    f"{name}={most}, of which {value:g} are used",
                    "no more is asked; all replies are kept",
                    "raise the limit and start again to go on",
                )
                raise self._stopped

    async def _send(self, question: Question[Any], messages: Sequence[Message]) -> CachedReply:
        import openai

        wanted = question.json_mode and "response_format" not in question.parameters
        json_mode = wanted and self._json_mode
        try:
            try:
                completion = await self._complete(question, messages, json_mode=json_mode)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                if not json_mode:
                    raise
                completion = await self._complete(question, messages, json_mode=False)
                self._json_mode = False  # it was the JSON mode that was refused
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is no JSON
            raise self._sorted(error) from None  # its context may hold the key
        self._failures = 0
        return _reply_of(completion, messages)

    async def _complete(
        self, question: Question[Any], messages: Sequence[Message], *, json_mode: bool
    ) -> Any:
        import openai
        from openai.types.chat import ChatCompletion

        options = {"response_format": {"type": "json_object"}} if json_mode else {}
        arguments: dict[str, Any] = {**question.parameters, **options}
        completion = await self._openai.chat.completions.create(
            model=self.endpoint.model, messages=list(messages), **arguments
        )
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise openai.OpenAIError("its answer is no chat completion")
        return completion

    def _sorted(self, error: Exception) -> FaVChatError:
        """What ``error`` costs: one question, the rest of this round, or the run."""
        import openai

        said = str(error).replace(self._key, "***") if self._key != NO_KEY else str(error)
        said = f"{type(error).__name__}: {said[:300]}"
        asked = f"{self.endpoint.model} at {self.endpoint.host}"
        if isinstance(
            error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError
        ):
            name = self.endpoint.api_key_env
            fix = f"correct base_url, model or the key in {name}"
            if self.endpoint.keeps_key:
                fix = (
                    "correct base_url or model, or name the variable of its key in api_key_env "
                    f"({name} is not sent to this machine)"
                )
            self._stopped = ConfigError(asked, f"the endpoint refuses ({said})", fix)
            return self._stopped
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            rule, fix = f"the endpoint refuses the question ({said})", "change it or its parameters"
            self._refusals += 1
            if not self.usage.replies and self._refusals > self._concurrency:
                self._stopped = ConfigError(asked, rule, fix)  # it refuses whatever is asked
            return QuestionError(asked, rule, fix)
        self._failures += 1
        failure = EndpointError(
            asked, f"it does not answer ({said})", "see whether it runs, and start again to go on"
        )
        if self._failures > self._concurrency:  # not one question's bad luck
            self._stopped = failure
        return failure


def _reply_of(completion: Any, messages: Sequence[Message]) -> CachedReply:
    text = completion.choices[0].message.content or ""
    usage = completion.usage
    if usage is None:
        asked = sum(len(str(message.get("content", ""))) for message in messages)
        return CachedReply(
            text=text,
            input_tokens=asked // CHARACTERS_PER_TOKEN,
            output_tokens=len(text) // CHARACTERS_PER_TOKEN,
        )
    return CachedReply(
        text=text, input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens
    )
