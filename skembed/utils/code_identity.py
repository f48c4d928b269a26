"""Texts that identify functions and other objects, the same in every process."""

from __future__ import annotations

import copyreg
import dis
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

__all__ = ["describe_object", "name_class"]

#: Directories of Python, of installed packages, and of this one, which may be installed in place. Their functions are
#: known by name: only installing changes them.
_INSTALLED = (
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)
#: Module-level values that are part of the identity of the functions that read them.
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, np.generic)

_Plain = Callable[[Any], Any]


def describe_object(value: Any, plain: _Plain) -> str:
    """Return text for a function, a class, or an object with state.

    Parameters
    ----------
    value : object
        Any object but numbers, strings and containers.
    plain : callable
        Form of the parts of the object; see `skembed.utils.identity.plain`.
    """
    if isinstance(value, type):
        return name_class(value)
    if isinstance(value, FunctionType):
        return _describe_function(value, plain)
    if isinstance(value, MethodType):
        return f"<method {plain(value.__func__)!r} of {plain(value.__self__)!r}>"
    if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None):
        return f"<{value.__module__}.{value.__qualname__}>"
    if hasattr(value, "__wrapped__"):  # functools.lru_cache
        return f"<{name_class(type(value))} of {plain(value.__wrapped__)!r}>"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return f"<tensor {value.dtype} {tuple(value.shape)} {_short(raw.tobytes())}>"
    return _describe_state(value, plain)


def name_class(cls: type) -> str:
    """Return the name of a class, with a digest of its methods unless it is installed.

    Classes of skembed are named without their module, so that none of their objects changes when a class moves.
    """
    if cls.__module__.partition(".")[0] == "skembed":
        return cls.__qualname__
    code = _class_code(cls)
    return f"{cls.__module__}.{cls.__qualname__}{'#' + code if code else ''}"


def _describe_state(value: Any, plain: _Plain) -> str:
    """Return text for an object by what `pickle` would store of it."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        parts = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(parts, str):
            return f"<{getattr(value, '__module__', None)}.{parts}>"
        build, arguments, *rest = parts
        rest = [list(part) if isinstance(part, Iterator) else part for part in rest]
        state = repr((build.__qualname__, plain(arguments), plain(rest)))
    # Objects that cannot be pickled raise anything. Their addresses change from process to process.
    except Exception:
        state = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    return f"<{name_class(type(value))} {_short(state.encode(errors='surrogatepass'))}>"


def _describe_function(function: FunctionType, plain: _Plain) -> str:
    cells = [_content(cell) for cell in function.__closure__ or ()]
    parts = [plain(function.__defaults__), plain(function.__kwdefaults__), *map(plain, cells)]
    if not _is_installed(function):
        parts += [_describe_code(function.__code__), plain(_globals_read(function))]
    text = repr(parts).encode(errors="surrogatepass")
    return f"<{function.__module__}.{function.__qualname__} {_short(text)}>"


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is not assigned yet
        return None


def _is_installed(function: FunctionType) -> bool:
    return function.__code__.co_filename.startswith(_INSTALLED)


def _describe_code(code: CodeType) -> tuple[Any, ...]:
    """Return what a code object does, without where it is written."""
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return code.co_code, names, counts, [_describe_constant(each) for each in code.co_consts]


def _describe_constant(value: Any) -> Any:
    # By their own repr: 1, 1.0 and True are different constants of a program.
    if isinstance(value, CodeType):
        return _describe_code(value)
    if isinstance(value, tuple):
        return tuple(map(_describe_constant, value))
    if isinstance(value, frozenset):
        return ["frozenset", *sorted(repr(_describe_constant(part)) for part in value)]
    return repr(value)


def _globals_read(function: FunctionType) -> dict[str, Any]:
    """Return the module's constants that a function reads, and the module's functions."""
    values = {name: function.__globals__.get(name) for name in _global_names(function.__code__)}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, _CONSTANTS)
        or (isinstance(value, FunctionType) and value.__module__ == function.__module__)
    }


def _global_names(code: CodeType) -> set[str]:
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_global_names(each) for each in code.co_consts if isinstance(each, CodeType)))


@cache
def _class_code(cls: type) -> str:
    """Return a digest of the methods of a class and its bases; "" if all are installed."""
    functions = [
        (name, function)
        for base in cls.__mro__
        for name, member in sorted(vars(base).items())
        for function in _functions_of(member)
        if not _is_installed(function)
    ]
    codes = [(name, _describe_code(function.__code__)) for name, function in functions]
    return _short(repr(codes).encode(errors="surrogatepass")) if codes else ""


def _functions_of(member: Any) -> list[FunctionType]:
    candidates = [member, *(getattr(member, name, None) for name in ("__func__", "fget", "fset"))]
    return [each for each in candidates if isinstance(each, FunctionType)]


def _short(data: bytes) -> str:
    return sha256(data).hexdigest()[:32]
