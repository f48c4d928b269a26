"""The shape of the package: what imports what, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skembed"

#: Rooms and their layers: a room imports from lower layers only, and from no other room of its own layer.
LAYERS = {
    "exceptions": 0,
    "utils": 1,
    "schedules": 1,
    "strategies": 2,
    "optimization": 2,
    "inputs": 2,
    "cache": 2,
    "config": 3,
    "backbones": 2,
    "backbones.accelerate": 3,
    "backbones.weights": 3,
    "backbones.tuning": 4,
    "backbones.models": 4,
    "backbones.loading": 5,
    "measures": 4,
    "probes": 3,
    "augment": 6,
    "inference": 6,
    "embedders": 7,
    "selection": 8,
    "testing": 8,
    "assessment": 9,
    "finetune": 10,
    "displays": 11,
    "advice": 11,
    "diagnosis": 11,
    "versions": 13,
    "skembed": 12,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """Return the room of a module: its package, and inside of `backbones` the inner one."""
    parts = module.split(".")[1:]
    if not parts:
        return "skembed"
    inner = ".".join(parts[:2])
    return inner if inner in LAYERS else parts[0]


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
def test_rooms_import_from_lower_layers_only(path):
    if _name(path) == "skembed":
        return  # the lazy front door names everything
    room = _room(_name(path))
    others = {_room(name) for name in _imports(path) if name.split(".")[0] == "skembed"} - {room}
    wrong = {other for other in others if LAYERS[other] >= LAYERS[room]}
    assert not wrong, f"{_name(path)} (layer {LAYERS[room]}) imports {wrong}"


def test_no_two_modules_import_each_other():
    """Imports at the top of modules form no circle, inside of a room either."""
    modules = {_name(path): path for path in MODULES}
    edges = {name: {_resolved(each, modules) for each in _top_imports(path)} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"circle of imports: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(edges.get(name, ())):
                visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def _resolved(imported: str, modules: dict[str, Path]) -> str:
    """Return the module that an imported name belongs to."""
    return imported if imported in modules else imported.rpartition(".")[0]


def _top_imports(path: Path) -> set[str]:
    """Return what a module imports when it is imported itself, by full names."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("skembed"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_other_libraries_stay_in_their_rooms(path):
    module, outside = _name(path), {name.split(".")[0] for name in _imports(path)}
    adapters = module.startswith("skembed.backbones.")
    assert adapters or not outside & {"timm", "transformers", "torchaudio", "huggingface_hub"}
    private = {name for name in _imports(path) if name.startswith("sklearn.utils._") or name.startswith("sklearn._")}
    assert module == "skembed.utils.sklearn_private" or not private


#: Attributes of `torch.nn.Module` that have no public door.
TORCH_PRIVATE = {"_buffers", "_modules", "_parameters", "_version"}


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in TORCH_PRIVATE


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
        rooms.setdefault(_room(_name(path)), set()).update(_defined_private_names(tree))
    for path, tree in trees.items():
        own = _room(_name(path))
        abroad = set().union(*(names for room, names in rooms.items() if room != own)) - rooms[own]
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
