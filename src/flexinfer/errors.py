"""The exception tree: one class per decision a caller can take.

FlexInferError
  InvalidField            one field of one object: path, value, what would be right
  InvalidManifest         every InvalidField of one or several documents at once
  StoreError
    NotFound  AlreadyExists  Conflict  Gone  Invalid  Unauthorized
  BadKubeconfig           what says where the cluster is cannot be used: file, path in it, what would be right
    NotLeading            a write of a process that does not hold its lease (any more)
  LeaseLost               the lead was not renewed in time; whoever held it has stopped
  ArtifactError           the bytes of a model are missing, truncated or not what they claim
  EngineMissing           a program that a backend needs is not installed
  EngineNotStarted        the machine refused to start an engine's process
  NothingRunning          no `flexinfer up` answers on the state directory
  StateLocked             another `flexinfer up` owns the state directory
  RequestError            an answer to a client of the proxy: status, code, type, Retry-After
"""

from __future__ import annotations


class FlexInferError(Exception):
    """Base of every error that FlexInfer raises on purpose."""


class InvalidField(FlexInferError):
    """A field holds a value that is not allowed.

    `path` is written as a user would look for it (`spec.gpu.count`), `expected` completes the
    sentence "expected …". `file` is the manifest it came from, if there is one; `line` where its object
    begins, if the file holds several.
    """

    def __init__(
        self, path: str, value: object, expected: str, file: str | None = None, line: int | None = None
    ) -> None:
        self.path = path
        self.value = value
        self.expected = expected
        self.file = file
        self.line = line
        shown = "nothing" if value is None else repr(value)
        super().__init__(f"{path}: {shown}: expected {expected}")

    @property
    def place(self) -> str:
        """What goes before the message: `file: `, `file:line: `, or nothing."""
        if self.file is None:
            return ""
        return f"{self.file}: " if self.line is None else f"{self.file}:{self.line}: "


class InvalidManifest(FlexInferError):
    """All errors of one or several manifests, in the order of the documents."""

    def __init__(self, errors: tuple[InvalidField, ...]) -> None:
        self.errors = errors
        super().__init__("\n".join(str(error) for error in errors))


class StoreError(FlexInferError):
    """The object store refused a call. `status` is the HTTP status an API server gives for it."""

    status = 500
    reason = "InternalError"


class NotFound(StoreError):
    status = 404
    reason = "NotFound"


class AlreadyExists(StoreError):
    status = 409
    reason = "AlreadyExists"


class Conflict(StoreError):
    """A resourceVersion or uid precondition failed, or another field manager owns a field."""

    status = 409
    reason = "Conflict"


class Gone(StoreError):
    """The watch version is too old: list again (HTTP 410)."""

    status = 410
    reason = "Expired"


class Invalid(StoreError):
    """The object breaks its schema or a rule; the message names every field."""

    status = 422
    reason = "Invalid"


class NotLeading(StoreError):
    """The write was not sent: this process does not hold its lease (any more)."""

    status = 409
    reason = "NotLeading"


class LeaseLost(FlexInferError):
    """The lead was not renewed in time; what it covered has been stopped."""


class Unauthorized(StoreError):
    """The API server does not know who asks, or we have nothing to tell it: a token or a plugin failed."""

    status = 401
    reason = "Unauthorized"


class BadKubeconfig(FlexInferError):
    """Where the cluster is, or as whom to ask, cannot be told. Never holds a value of the file: they are secrets.

    `path` is where in `file` (`clusters[2].cluster.server`, or empty); `expected` completes "expected …".
    """

    def __init__(self, file: str, path: str, expected: str) -> None:
        self.file = file
        self.path = path
        self.expected = expected
        place = f"{file}: {path}" if path else file
        super().__init__(f"{place}: expected {expected}")


class ArtifactError(FlexInferError):
    """A model's bytes are missing, truncated or not what they claim to be."""


class EngineMissing(FlexInferError):
    """A program that the backend needs is not installed; the message says how to get it."""


class EngineNotStarted(FlexInferError):
    """The machine refused to start an engine's process; `reason` says why (no such file, not executable, …)."""

    def __init__(self, program: str, reason: str) -> None:
        self.program = program
        self.reason = reason
        super().__init__(f"cannot start {program}: {reason}")


class NothingRunning(FlexInferError):
    """No `flexinfer up` answers on this state directory (exit code 3)."""


class StateLocked(FlexInferError):
    """Another `flexinfer up` owns this state directory; `pid` is its process."""

    def __init__(self, path: str, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        super().__init__(f"{path} is in use by another `flexinfer up` (pid {pid or 'unknown'})")


class RequestError(FlexInferError):
    """What a client of the proxy is told; the table of codes is in docs/errors.md.

    `retry_after_s` is None where waiting does not help; it is clamped to 1..60 when written,
    because the OpenAI client ignores longer waits.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        super().__init__(message)
