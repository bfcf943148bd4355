"""Every error a user of this package can meet. A leaf: imports nothing of the project.

What a user gave wrong is an `InvalidInput` (a `ValueError`, exit code 2) that names the field, the
value and the fix. What went wrong inside is another `SpavaError` (exit code 1); an `InternalError`
is a fault of the program itself.
"""

import math
import operator
import sys
from fractions import Fraction
from numbers import Integral, Real
from traceback import format_exception
from typing import Any, Self

_OF_INTERNAL = ("where", "cause", "traceback")
# Characters that travel between processes.
_LONGEST_TRACEBACK = 2**15


class SpavaError(Exception):
    """Base of all errors raised on purpose by this package.

    Attributes:
        exit_code: of a command that ends with it.
        elsewhere: it was raised by another process of torchrun, which reports it.
    """

    exit_code = 1
    elsewhere = False


class InvalidInput(SpavaError, ValueError):
    """A value a user gave cannot be used.

    Args:
        field: name of the argument or option, as the user wrote it.
        value: the offending value.
        fix: what is allowed or what to do, as a sentence fragment.
    """

    exit_code = 2

    def __init__(self, field: str, value: object, fix: str) -> None:
        super().__init__(f"{field}={_shown(value)}: {fix}")
        self.field, self.value, self.fix = field, value, fix

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.fix)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        name = type(value).__name__
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    # A whole book may have been given.
    return text if len(text) <= 400 else f"{text[:200]}...{text[-60:]}"


class VideoError(InvalidInput):
    """A video cannot be read: missing, not a video, no video stream, corrupt."""


class SpavaWarning(UserWarning):
    """Something does not work, and there is an answer without it."""


class VideoWarning(SpavaWarning):
    """Some frames of a video are damaged; the nearest whole ones before them are used.

    Args:
        path: the file.
        times: seconds of each, ascending.
    """

    def __init__(self, path: str, times: tuple[float, ...]) -> None:
        first, last = min(times), max(times)
        super().__init__(
            f"{path}: {len(times)} frames damaged between {first:.1f} s and {last:.1f} s: "
            "neighbours used"
        )
        self.path, self.times = path, times

    def __reduce__(self) -> tuple[type, tuple[str, tuple[float, ...]]]:
        return type(self), (self.path, self.times)


class CheckpointError(InvalidInput):
    """A model folder cannot be loaded: missing files, tensors or settings, wrong shapes, unknown
    architecture.
    """


class EngineError(SpavaError):
    """The engine failed a request for a reason other than its input."""


class EngineDown(EngineError):
    """A worker or a decoder process died, hung past its deadline, or cannot be started, or the
    engine was closed.
    """


class OutOfMemory(EngineError):
    """The memory of a GPU or of the machine did not suffice for a request, or for the model."""


class Cancelled(SpavaError):
    """The caller took the question back before there was anything of an answer."""


class InternalError(SpavaError):
    """A fault of this program, or of a library that it does not work with; never of the input.

    Args:
        where: the process, and what it was doing.
        cause: the exception's type and text.
        traceback: all that is known of where it was raised.
    """

    def __init__(self, where: str, cause: str, traceback: str = "") -> None:
        super().__init__(
            f"internal error in {where}: {cause} (a bug in this program or an incompatible "
            "library, not your input; see the traceback with --debug or in the log)"
        )
        self.where, self.cause, self.traceback = where, cause, traceback

    @classmethod
    def of(cls, where: str, error: BaseException) -> Self:
        """What an unexpected exception is reported as."""
        text = " ".join(str(error).split())
        text = text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"
        name = type(error).__name__
        trace = "".join(format_exception(error)).strip()
        return cls(where, f"{name}: {text}" if text else name, trace[-_LONGEST_TRACEBACK:])

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.where, self.cause, self.traceback)


def raise_fault(error: Exception) -> None:
    """Raise an exception again that no data can cause, in the handler of a library's many kinds of
    errors about data: something is missing in the library, or it takes other arguments.
    """
    text = str(error)
    missing = isinstance(error, AttributeError) and text.startswith("module ")
    argument = "keyword argument" in text or "positional" in text
    called_wrongly = isinstance(error, TypeError) and argument
    if isinstance(error, ImportError | NameError) or missing or called_wrongly:
        raise error


def plain_number(value: object) -> int | float | None:
    """A number of any library as Python's own, which can travel as JSON; None for what is none, as
    True and False, an array that is no scalar, and a fraction too large for a float.
    """
    # Arrays and tensors without dimensions, and NumPy's scalars: torch gives True as the index 1.
    dimensions, item = getattr(value, "ndim", 0), getattr(value, "item", None)
    if dimensions != 0:
        return None
    try:
        plain = item() if callable(item) else value
        if isinstance(plain, bool):
            return None
        if isinstance(plain, Real) and not isinstance(plain, Integral):
            return float(plain)
        return operator.index(plain)  # type: ignore[arg-type] (that is what is asked)
    except (TypeError, OverflowError, RuntimeError):
        return None


def as_written(number: float) -> Fraction:
    """The decimal that stands for a number wherever it is written: 0.07 is 7/100, which no float
    is. For products that are rounded: 0.07 * 100 is 7.000000000000001 in floats.
    """
    return Fraction(repr(float(number)))


def finite_number(value: object) -> int | float | None:
    """As `plain_number`, and None for NaN, infinity and an integer too large for a float."""
    number = plain_number(value)
    try:
        return number if number is not None and math.isfinite(number) else None
    except OverflowError:
        return None


def check_count(field: str, value: object, *, least: int, most: int = sys.maxsize) -> int | None:
    """`value` as a plain integer, or None if it is None.

    Raises:
        InvalidInput: it is no integer from `least` to `most`.
    """
    if value is None:
        return None
    count = plain_number(value)
    if not isinstance(count, int) or count < least:
        raise InvalidInput(field, value, f"must be an integer of at least {least}")
    if count > most:
        raise InvalidInput(field, value, f"must be at most {most}")
    return count


def needed_count(field: str, value: object, *, least: int, most: int = sys.maxsize) -> int:
    """As `check_count`, of what may not be None."""
    count = check_count(field, value, least=least, most=most)
    if count is None:
        raise InvalidInput(field, value, f"must be an integer of at least {least}")
    return count


def encode_error(error: SpavaError) -> dict[str, Any]:
    """The `error` message for a typed error."""
    detail = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, InvalidInput):
        detail |= {"field": error.field, "value": _plain(error.value), "fix": error.fix}
    elif isinstance(error, InternalError):
        detail |= {name: getattr(error, name) for name in _OF_INTERNAL}
    return {"error": detail}


def decode_error(detail: dict[str, Any]) -> SpavaError:
    """The error that `encode_error` was given; one of a type unknown here becomes an
    `EngineError`.
    """
    kind = globals().get(detail["type"])
    if not (isinstance(kind, type) and issubclass(kind, SpavaError)):
        kind = EngineError
    if issubclass(kind, InvalidInput):
        return kind(detail["field"], detail["value"], detail["fix"])
    if issubclass(kind, InternalError):
        return kind(*(detail[name] for name in _OF_INTERNAL))
    return kind(detail["message"])


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | None) else repr(value)
