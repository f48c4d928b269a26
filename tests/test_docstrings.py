"""Docstrings say what a thing is or does, in the first line, and document every parameter."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skembed"
PUBLIC_ROOMS = ["advice", "augment", "cache", "diagnosis", "displays", "exceptions", "measures", "selection", "testing"]
#: First words that make a clause of the first line, which then says neither what a thing is nor what it does.
FORBIDDEN = {"What", "Whether", "Where", "How", "Of", "That"}
#: Most characters of a public first line.
LONGEST = 88


def public_things():
    """Yield the public names of the package and its rooms, with the things that they stand for, once each."""
    seen = set()
    for module in [
        importlib.import_module(name) for name in ("skembed", *(f"skembed.{room}" for room in PUBLIC_ROOMS))
    ]:
        yield module.__name__, module
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing not in seen:
                seen.add(thing)
                yield f"{module.__name__}.{name}", thing


def methods_of(cls: type):
    """Yield the public methods and properties that skembed defines for a class, by their dotted names."""
    for name in sorted({name for base in cls.__mro__ for name in vars(base) if not name.startswith("_")}):
        owners = [base for base in cls.__mro__ if name in vars(base) and base.__module__.startswith("skembed.")]
        members = [inspect.getattr_static(owner, name) for owner in owners]
        members = [m.__func__ if isinstance(m, classmethod | staticmethod) else m for m in members]
        if members and (inspect.isfunction(members[0]) or isinstance(members[0], property)):
            # A method that only carries out what its base class declares may leave the docstring to it.
            described = next((member for member in members if member.__doc__), members[0])
            yield f"{owners[0].__module__}.{owners[0].__name__}.{name}", described


def documented_things():
    """Yield a name, its docstring and the parameters that the docstring has to document."""
    methods = {}
    for name, thing in public_things():
        if inspect.ismodule(thing):
            yield name, thing.__doc__, []
        elif inspect.isfunction(thing):
            yield name, thing.__doc__, parameters_of(thing)
        else:
            owner = next(base for base in thing.__mro__ if "__init__" in vars(base))
            yield name, thing.__doc__, parameters_of(thing) if owner is thing else []
            methods |= dict(methods_of(thing))
    for name, member in methods.items():
        yield name, member.__doc__, [] if isinstance(member, property) else parameters_of(member)


def parameters_of(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def documented_parameters(doc: str) -> set[str]:
    """Return the names that stand before a colon, or alone, in the section "Parameters"."""
    lines = inspect.cleandoc(doc).splitlines()
    starts = [i for i, line in enumerate(lines[1:]) if line == "Parameters" and lines[i + 2] == "-" * len(line)]
    if not starts:
        return set()
    section = lines[starts[0] + 3 :]
    end = next((i for i, line in enumerate(section[1:]) if line and set(line) == {"-"}), len(section))
    heads = [line.partition(" :")[0] for line in section[:end] if line and not line.startswith(" ")]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def first_line_problem(line: str) -> str | None:
    if line.split()[0].strip("`,:") in FORBIDDEN:
        return f"begins with {line.split()[0]!r}"
    if len(line) > LONGEST:
        return f"has {len(line)} characters, of at most {LONGEST}"
    if not line.endswith(".") or re.search(r"[.!?] [A-Z`]", line):
        return "is not one sentence"
    return None


DOCUMENTED = list(documented_things())


def test_everything_public_has_a_docstring():
    assert [name for name, doc, _ in DOCUMENTED if not (doc or "").strip()] == []


def test_public_first_lines_are_one_short_sentence():
    problems = {}
    for name, doc, _ in DOCUMENTED:
        line = inspect.cleandoc(doc or "Missing.").splitlines()[0]
        if problem := first_line_problem(line):
            problems[name] = f"{problem}: {line}"
    assert problems == {}


def test_every_public_parameter_is_documented():
    missing = {name: sorted(set(parameters) - documented_parameters(doc or "")) for name, doc, parameters in DOCUMENTED}
    assert {name: parameters for name, parameters in missing.items() if parameters} == {}


def test_documented_parameters_exist():
    unknown = {
        name: sorted(documented_parameters(doc or "") - set(parameters))
        for name, doc, parameters in DOCUMENTED
        if parameters
    }
    assert {name: parameters for name, parameters in unknown.items() if parameters} == {}


def test_no_first_line_begins_with_a_clause():
    definitions = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    clauses = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, definitions)]
        lines = [doc.splitlines()[0] for doc in map(ast.get_docstring, nodes) if doc]
        clauses[module] = [line for line in lines if line.split()[0].strip("`,:") in FORBIDDEN]
    assert {module: lines for module, lines in clauses.items() if lines} == {}


# -- the checks themselves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("Whether it was cut.", "begins"),
        ("Return True if it was cut. Else False.", "sentence"),
        ("Return the rows", "sentence"),
        (f"Return {'very ' * 20}many rows.", "characters"),
    ],
)
def test_bad_first_lines_are_refused(line, problem):
    assert problem in first_line_problem(line)
    assert first_line_problem("Return the rows of e.g. one sample.") is None


def test_parameters_of_a_section_are_read():
    doc = """Do it.

    Parameters
    ----------
    a, b : int
        Numbers.
    c
        See X.
    **rest : dict
        Others.

    Returns
    -------
    d : int
        Number.
    """
    assert documented_parameters(doc) == {"a", "b", "c", "rest"}
    assert documented_parameters("Do it.") == set()
