"""An OpenAI-compatible endpoint: where it is, what may be spent on it and what was."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from common.errors import ConfigError

DEFAULT_KEY = "OPENAI_API_KEY"
"""The variable of a provider's key, which a server on this machine has no business to see."""

NO_KEY = "none"
"""Sent where no key is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to ask, and as whom.

    Example:
        >>> Endpoint(base_url="http://127.0.0.1:8000/v1", model="qwen").is_local
        True
    """

    base_url: str  # such as "https://api.openai.com/v1"
    model: str
    api_key_env: str = DEFAULT_KEY  # the environment variable that holds the key
    input_price: float = 0.0  # per million tokens
    output_price: float = 0.0

    @property
    def host(self) -> str:
        """Host name, and the port where the address names one."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    @property
    def is_local(self) -> bool:
        """Whether what is sent stays on this machine."""
        name = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    @property
    def keeps_key(self) -> bool:
        """Whether the key in ``api_key_env`` is not for this endpoint."""
        return self.is_local and self.api_key_env == DEFAULT_KEY

    def check(self) -> None:
        """Refuse an address that is none.

        Raises:
            ConfigError: for an address without http(s), a host or a valid port.
        """
        rule, fix = "it is an address such as http://127.0.0.1:8000/v1", "correct base_url"
        try:
            parts = urlsplit(self.base_url)
            holds = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            holds = False
        if not holds:
            raise ConfigError(f"base_url={self.base_url!r}", rule, fix)

    def api_key(self) -> str:
        """The key from the environment, or :data:`NO_KEY`.

        A server on this machine is sent a key only from a variable that was named for it: the
        default one holds the key of a provider elsewhere. It may also do without.

        Raises:
            ConfigError: when the variable is not set and the endpoint is not on this machine.
        """
        if self.keeps_key:
            return NO_KEY
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and not self.is_local:
            raise ConfigError(
                f"no {self.api_key_env} in the environment",
                f"{self.host} is asked with a key",
                f"export {self.api_key_env}=…, or name another variable in api_key_env",
            )
        return key or NO_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to stop asking; 0 means no limit. What is under way then is still waited for."""

    max_requests: int = 0  # retries count
    max_tokens: int = 0  # prompts included
    max_cost: float = 0.0  # by the endpoint's prices


@dataclass(slots=True, kw_only=True)
class Usage:
    """What was asked so far."""

    requests: int = 0  # sent, retries included
    replies: int = 0
    cached: int = 0  # questions answered from the cache
    input_tokens: int = 0
    output_tokens: int = 0

    def cost(self, endpoint: Endpoint) -> float:
        """In the currency of the endpoint's prices."""
        millions = (
            self.input_tokens * endpoint.input_price + self.output_tokens * endpoint.output_price
        )
        return millions / 1e6

    def report(self, endpoint: Endpoint) -> str:
        """One line for people."""
        return (
            f"{endpoint.model} at {endpoint.host}: {self.requests} requests, {self.replies} "
            f"replies, {self.cached} from the cache, {self.input_tokens} + {self.output_tokens} "
            f"tokens, cost {self.cost(endpoint):.2f}"
        )
