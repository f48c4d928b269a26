"""The shape of the package: what imports what, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skembed"

#: First match wins; a module imports only from its own layer and those before it.
LAYERS = [
    ("skembed.exceptions", 1),
    ("skembed._warn", 1),
    ("skembed.sealed_files", 1),
    ("skembed.naming", 1),
    ("skembed.identity", 1),
    ("skembed.code_identity", 1),
    ("skembed.progress", 1),
    ("skembed.sample_watch", 1),
    ("skembed.parameters", 2),
    ("skembed.versions", 7),
    ("skembed.measures", 2),
    ("skembed.engine.batching", 1),
    ("skembed._sklearn", 1),
    ("skembed._layout", 1),
    ("skembed._plotting", 1),
    ("skembed._blas", 1),
    ("skembed.finetune.schedules", 1),
    ("skembed.strategies", 1),
    ("skembed.finetune.groups", 2),
    ("skembed.finetune.probe", 1),
    ("skembed.finetune.tasks", 2),
    ("skembed.inputs", 2),
    ("skembed.cache", 2),
    ("skembed.config", 3),
    ("skembed.engine.device", 2),
    ("skembed.engine.seeding", 2),
    ("skembed.engine.modes", 2),
    ("skembed.engine.reading", 1),
    ("skembed.backbones.base", 2),
    ("skembed.backbones.spec", 2),
    ("skembed.backbones.blocks", 2),
    ("skembed.backbones.json_files", 2),
    ("skembed.backbones.sentence_modules", 2),
    ("skembed.backbones.weights", 2),
    ("skembed.engine.pooling", 3),
    ("skembed.backbones", 3),
    ("skembed.engine", 4),
    ("skembed.base", 5),
    ("skembed.encoder", 5),
    ("skembed.layerwise", 6),
    ("skembed.image", 5),
    ("skembed.text", 5),
    ("skembed.audio", 5),
    ("skembed.augment", 3),
    ("skembed.finetune", 7),
    ("skembed.selection", 6),
    ("skembed.displays", 8),
    ("skembed.assessment", 6),
    ("skembed.advice", 8),
    ("skembed.diagnosis", 8),
    ("skembed.testing", 7),
    ("skembed", 8),
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _layer(module: str) -> int:
    return next(layer for prefix, layer in LAYERS if module == prefix or module.startswith(prefix + "."))


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"relative import in {path}"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_one_way(path):
    if _name(path) == "skembed":
        return  # the lazy front door names everything
    inside = {name for name in _imports(path) if name.split(".")[0] == "skembed"}
    up = {name for name in inside if _layer(name) > _layer(_name(path))}
    assert not up, f"{_name(path)} (layer {_layer(_name(path))}) imports {up}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_other_libraries_stay_in_their_rooms(path):
    module, outside = _name(path), {name.split(".")[0] for name in _imports(path)}
    adapters = module.startswith("skembed.backbones.")
    assert adapters or not outside & {"timm", "transformers", "torchaudio", "huggingface_hub"}
    private = {name for name in _imports(path) if name.startswith("sklearn.utils._") or name.startswith("sklearn._")}
    assert module == "skembed._sklearn" or not private


#: Modules outside of any folder that belong to the embedders.
EMBEDDERS = {"base", "encoder", "image", "text", "audio"}


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) > 1 else "embedders" if parts[0] in EMBEDDERS else "the front"


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined_private_names(tree: ast.AST) -> set[str]:
    """Return the private names that classes of a module define: methods, class variables, attributes of self."""
    names = set()
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(owner):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Assign):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                names.add(node.attr)
    return {name for name in names if _private(name)}


def _is_self(node: ast.expr) -> bool:
    inherited = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    return inherited or (isinstance(node, ast.Name) and node.id in {"self", "cls"})


def test_nobody_reaches_into_another_room():
    trees = {path: ast.parse(path.read_text()) for path in MODULES}
    rooms: dict[str, set[str]] = {}
    for path, tree in trees.items():
        rooms.setdefault(_room(path), set()).update(_defined_private_names(tree))
    for path, tree in trees.items():
        abroad = set().union(*(names for room, names in rooms.items() if room != _room(path))) - rooms[_room(path)]
        reached = {
            f"{ast.unparse(node)} in line {node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in abroad and not _is_self(node.value)
        }
        assert not reached, f"{_name(path)} uses private names of other rooms: {reached}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_stay_small(path):
    assert len(path.read_text().splitlines()) <= 450


def test_import_is_light():
    code = (
        "import sys, skembed; known = {'torch', 'transformers', 'timm', 'torchaudio', 'sklearn', 'PIL'};"
        "heavy = known & set(sys.modules);"
        "assert not heavy, heavy; assert 'TextEmbedder' in dir(skembed); from skembed import TextEmbedder;"
        "TextEmbedder(); assert 'torch' not in sys.modules, 'constructing an embedder imports torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
