"""Standard output as users have it: a pipe whose reader has left, an encoding without some signs, no output at all."""

import codecs
import contextlib
import io
import os
import sys

# Signs that this project prints and that ASCII lacks; any other becomes a question mark
_SPELT = {
    "≥": ">=", "≤": "<=", "±": "+-", "×": "x", "→": "->", "…": "...", "–": "-", "—": "-", "·": "-",
    "’": "'", "‘": "'", "“": '"', "”": '"',
}  # fmt: skip
_SPELL = "busi.spell"  # name of the error handler


def prepare() -> None:
    """Let `sys.stdout` and `sys.stderr` end quietly and lose no work, in place; a second call changes nothing.

    A reader that leaves (`busi versions | head -1`) is like one that reads on and throws away: the command does its
    work, and its exit code is the true one. Signs that the encoding lacks are spelt otherwise.
    """
    codecs.register_error(_SPELL, _spell)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, `>&-`
            nowhere = os.open(os.devnull, os.O_WRONLY)  # as long as the process, also when another stream replaces this
            os.set_inheritable(nowhere, True)  # it mostly takes the free number, and a child process needs it too
            setattr(sys, name, open(nowhere, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif type(stream) is io.TextIOWrapper and not isinstance(stream.buffer, _Writer) and _number(stream) == number:
            stream.flush()
            writer = _Writer(_Pipe(number, "w", closefd=False))
            buffering = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            setattr(sys, name, io.TextIOWrapper(writer, stream.encoding, _SPELL, **buffering))


class _Pipe(io.FileIO):
    """A file descriptor that leads nowhere once nobody reads it, or once an error of it was raised."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self.fileno())  # what is left in the buffer must not fail again at the end
            if not isinstance(error, BrokenPipeError):
                raise
            return len(data)


class _Writer(io.BufferedWriter):
    """Tells a prepared stream from others."""


def _number(stream: io.TextIOWrapper) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return stream.fileno()
    return None


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_SPELT.get(sign, "?") for sign in text), error.end
