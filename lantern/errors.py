"""What can go wrong, each with a stable `code` that callers may rely on."""

from __future__ import annotations

from collections.abc import Iterable


class LanternError(Exception):
    """Base of every error Lantern raises on purpose.

    `detail` names the offending value, the legal range and the remedy; it is safe to show to a
    caller. `pointer` is a JSON pointer to the part of the request that was wrong, or empty.
    """

    code = "error"

    def __init__(self, detail: str, *, pointer: str = "", code: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer
        if code:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.detail, self.pointer, self.code))


def _rebuild(kind: type[LanternError], detail: str, pointer: str, code: str) -> LanternError:
    return kind(detail, pointer=pointer, code=code)


class InvalidParameter(LanternError):
    """A parameter is unknown, of the wrong type or out of its range."""

    code = "invalid-parameter"


class InvalidParameters(LanternError):
    """Several parameters are wrong at once; `problems` holds one error for each."""

    code = "invalid-parameter"

    def __init__(self, problems: Iterable[InvalidParameter]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "; ".join(p.detail for p in self.problems), pointer=self.problems[0].pointer
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (InvalidParameters, (self.problems,))


class UnknownName(LanternError):
    """No technique, model, layer, style or collection has that name."""

    code = "unknown-name"


class BadImage(LanternError):
    """The picture cannot be decoded or is outside the limits."""

    code = "undecodable-image"


class MissingInput(LanternError):
    """An input slot was left empty or one was given that does not exist."""

    code = "missing-input"


class WeightsMissing(LanternError):
    """The network's weights are neither on this machine nor to be had now."""

    code = "weights-missing"


class AnswerTooLarge(LanternError):
    """The answer has more bytes than may be sent or kept."""

    code = "answer-too-large"


class NotFinite(LanternError):
    """The computation overflowed; the parameters are too extreme for this picture."""

    code = "not-finite"


def check_size(found: float, most: float) -> None:
    """Check the bytes of an answer.

    Raises:
        AnswerTooLarge: there are more than `most`.
    """
    if found > most:
        raise AnswerTooLarge(f"the answer has {found:.0f} bytes; at most {most:.0f} can be given")


def one_of(what: str, value: str, legal: Iterable[str], *, pointer: str = "") -> UnknownName:
    """Build the error for an unknown name: the legal ones, nearest first."""
    from difflib import get_close_matches

    names = sorted(legal)
    near = get_close_matches(value, names, n=3) if len(value) <= 100 else []
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    shown = ", ".join(names[:24]) + (", ..." if len(names) > 24 else "")
    return UnknownName(
        f"no such {what}; {hint}the {what}s are: {shown}",
        pointer=pointer,
        code=f"unknown-{what}",
    )
