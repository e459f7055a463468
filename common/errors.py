"""The errors that users meet.

Every error says three things: the value received, the rule it broke, and the fix. Each class
also inherits a standard exception, so that callers may catch either, and pickles, so that it
crosses actor boundaries whole.

The error model of a run: a bad *sample* (:class:`SampleError`) is data and costs only itself;
a broken *machine* (:class:`MachineError`) restarts or stops the run; a wrong *request*
(:class:`ConfigError`) is refused before any actor starts.
"""

from __future__ import annotations


class FaVChatError(Exception):
    """Base of every error raised on purpose.

    Args:
        received: what came in, in the user's terms.
        rule: what must hold.
        fix: what to do now.

    Example:
        >>> str(ConfigError("learner.lr=-1", "a learning rate is positive", "set learner.lr=1e-4"))
        'got learner.lr=-1; a learning rate is positive; set learner.lr=1e-4'
    """

    def __init__(self, received: str, rule: str, fix: str) -> None:
        super().__init__(received, rule, fix)
        self.received, self.rule, self.fix = received, rule, fix

    def __str__(self) -> str:
        return f"got {self.received}; {self.rule}; {self.fix}"


class ConfigError(FaVChatError, ValueError):
    """A recipe, a command line or an argument that cannot be meant."""


class SampleError(FaVChatError, ValueError):
    """A sample that cannot be used. It becomes a ``failed`` event; the run goes on."""


class VideoError(SampleError):
    """A video that is missing, empty or undecodable."""


class NoFaceError(SampleError):
    """A video in which no face was found although one is needed."""


class PromptError(SampleError):
    """A prompt that the policy cannot take: its text, its clip, or how the two go together."""


class PolicyInputError(FaVChatError, ValueError):
    """Tensors that the policy cannot take: of another shape, number or pairing than its config."""


class CheckpointError(FaVChatError, RuntimeError):
    """A checkpoint that is missing, incomplete or of another shape."""


class TrainingError(FaVChatError, ArithmeticError):
    """Training that left the finite numbers."""


class ParityError(FaVChatError, RuntimeError):
    """Sampler and learner do not compute the same distribution."""


class MachineError(FaVChatError, RuntimeError):
    """The machine lacks something: memory, a free port, a writable folder, a package."""
