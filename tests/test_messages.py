"""Messages are plain US English: the message templates of the package, checked against forbidden wordings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from skembed.assessment.findings import VERDICTS, Finding

PACKAGE = Path(__file__).parents[1] / "skembed"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Beginnings of words that end in -ize in the US. Many others end in -ise there too, such as "noise" and "advised".
_STEMS = "al|ar|[ntx]im|util|standard|recogn|organ|quant|token|memor|categor|random|parametr|vector"
#: Wordings that a message must not have, and what to write instead.
FORBIDDEN = {
    r"(?<!\b[Tt]here) (is|are) no (?!(longer|more|worse|better|fewer|larger|smaller)\b)[a-z]": "X is not a ...",
    r"\b(is|are) none of\b": "is not one of",
    r"\btold of\b": "passed, warned",
    r"\bheeded\b": "used",
    r"\bcom(es?|ing) to\b": "reaches, is",
    r"\bhand(s|ed)? (along|on)\b": "passes",
    r"\blies? in\b": "is in",
    r"\bhas to be mended\b": "needs a fix",
    r"\b(one|two|a|an|\{\}) [a-z]+ an? (sample|epoch|class|row|fold|layer|block|batch|target|label)\b": "per",
    r"\{\} an? (sample|epoch|class|row|fold|layer|block|batch|target|label)\b": "per",
    rf"\b\w*({_STEMS})is(e|es|ed|er|ers|ing|ation|ations)\b": "-ize, -ization",
    r"\bcolours?\b|\bneighbours?\b|\bcentres?\b|\bjudgements?\b|\blabell(ed|ing)\b|\bbehaviours?\b": "US spelling",
}


def _template(node: ast.expr) -> str | None:
    """Return a string with {} for its fields, or None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def _docstrings(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and _template(node.value) is not None:
            yield node.value


def templates(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and template of every string that is a message: text with a space, but no docstring.

    Messages are built in parts and by helper functions, so the strings of `raise` and `warn` alone would miss most
    of the sentences of reports and findings.
    """
    tree = ast.parse(source)
    skipped = {id(node) for node in _docstrings(tree)}
    skipped |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        text = _template(node) if isinstance(node, ast.expr) and id(node) not in skipped else None
        if text is not None and " " in text:
            yield node.lineno, text


def violations(source: str) -> list[str]:
    """Return "line: words (remedy)" for every forbidden wording in the messages of a module."""
    return [
        f"{line}: {match[0]!r} ({remedy})"
        for line, text in templates(source)
        for pattern, remedy in FORBIDDEN.items()
        for match in re.finditer(pattern, text)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_messages_are_plain_english(path):
    assert violations(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "message",
    [
        "raise ValueError(f'device={device!r} is no device')",
        "raise TypeError(f'{name} are no images')",
        "warn(f'{n} of the samples is told of', FitWarning)",
        "raise ValueError(f'X has shape {shape}: give one number a sample')",
        "line = f'{n} samples, {k} a class'",
        "evidence = f'with shuffled labels it comes to {low}'",
        "report = f'{name} again, with stronger regularisation'",
        "raise ValueError(f'fill={fill!r}: unknown colour')",
        "remedy = 'Nothing has to be mended.'",
    ],
)
def test_forbidden_wordings_are_found(message):
    assert len(violations(message)) == 1


@pytest.mark.parametrize(
    "message",
    [
        "raise ValueError('there is no column of that name')",
        "evidence = 'the new features are no worse'",
        "raise ValueError(f'n={n} is not a number; otherwise raise it for noise')",
        "class A:\n    '''What is no message, a docstring, may say it.'''",
        "key = 'colour'",
    ],
)
def test_other_wordings_are_not(message):
    assert violations(message) == []


def test_fields_are_placeholders_and_parts_are_joined():
    source = "raise ValueError(f'{name}={value!r} is out ' 'of range. Use ' f'{low:.1f} or more.')"
    assert list(templates(source)) == [(1, "{}={} is out of range. Use {} or more.")]


def _finding_names(source: str) -> set[str]:
    """Return the names of the findings that a module makes, by `Finding(name, ...)` and by rules with `finding=`."""
    names = set()
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
            is_rule = call.func.id == "Rule" and any(keyword.arg == "finding" for keyword in call.keywords)
            if (is_rule or call.func.id == "Finding") and isinstance(call.args[0], ast.Constant):
                names.add(call.args[0].value)
    return names


def test_every_finding_has_a_verdict():
    names = set().union(*(_finding_names(path.read_text(encoding="utf-8")) for path in MODULES))
    assert len(names) > 15
    assert names == set(VERDICTS)


def test_a_finding_prints_its_verdict_its_numbers_and_its_remedy():
    finding = Finding("label noise", "warning", "of 100 labels, 7 are suspect.", "Check them.")
    assert str(finding).splitlines() == [
        "- label noise (warning): Some labels are probably wrong.",
        "  Of 100 labels, 7 are suspect.",
        "  Remedy: Check them.",
    ]
    unnamed = Finding("my finding", "note", "7 are odd.", "None.")
    assert str(unnamed) == "- my finding (note): 7 are odd.\n  Remedy: None."
