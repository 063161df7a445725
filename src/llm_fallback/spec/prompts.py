"""Prompts with variables, as LangChain fills them: `{name}`, and `{{` for a brace itself."""

from __future__ import annotations

from contextlib import suppress
from string import Formatter

_REMEDY = "write a name in braces, {{ and }} for braces themselves"
_SAMPLES = ("", 0, 0.0)


def flaw(prompt: str) -> tuple[str, str] | None:
    """What keeps a prompt from being filled, and the remedy; None where nothing does."""
    try:
        fields = [field for field in Formatter().parse(prompt) if field[1] is not None]
    except ValueError as error:
        return f"has a brace that belongs to no variable ({error})", _REMEDY
    for _, name, spec, conversion in fields:
        if not (str(name).isidentifier() and _is_format(spec or "", conversion)):
            rest = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            return f"{{{name}{rest}}} is no variable", _REMEDY
    return None


def _is_format(spec: str, conversion: str | None) -> bool:
    """Whether some value can be written so; dates take any text with a `%`."""
    if conversion is not None:
        return conversion in "rsa" and "{" not in spec and _takes("", spec)
    return "{" not in spec and ("%" in spec or any(_takes(sample, spec) for sample in _SAMPLES))


def _takes(value: object, spec: str) -> bool:
    with suppress(ValueError):
        format(value, spec)
        return True
    return False
