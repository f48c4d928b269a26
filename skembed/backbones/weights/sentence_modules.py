"""Modules of a sentence-transformers directory, and the folder of its network."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from skembed.backbones.weights.json_files import invalid_entry, read_json
from skembed.exceptions import BackboneReadError

__all__ = ["SentenceModule", "has_module_list", "module_folders", "network_directory", "read_modules"]

#: How sentence-transformers names the folder of a module, such as "1_Pooling".
_FOLDER = re.compile(r"(?P<index>\d{1,3})_(?P<kind>[A-Za-z]\w*)")


class SentenceModule(NamedTuple):
    """Step of a sentence-transformers model.

    Parameters
    ----------
    kind : str
        Name of its class, such as "Transformer", "Pooling" or "Normalize".
    folder : str
        Folder with its files, relative to the directory; "" is the directory itself.
    """

    kind: str
    folder: str


def has_module_list(directory: Path) -> bool:
    """Return True if a directory lists its modules in a modules.json."""
    return (directory / "modules.json").is_file()


def read_modules(directory: Path) -> list[SentenceModule]:
    """Return the modules of a sentence-transformers directory; none for any other.

    Early versions stored the network in a folder of its own, "0_Transformer". Where such a directory has lost its
    modules.json, the numbers and names of the folders say the same.

    Raises
    ------
    BackboneReadError
        If modules.json is not a list of modules, or names a folder outside of the directory.
    """
    if not has_module_list(directory):
        return _modules_by_folder(directory)
    path = directory / "modules.json"
    content: Any = read_json(path)
    if not isinstance(content, list):
        raise BackboneReadError(f"{path} holds a {type(content).__name__}, not a list. Download the backbone again.")
    return [_read_module(path, f"modules[{i}]", entry) for i, entry in enumerate(content)]


def _read_module(path: Path, name: str, entry: Any) -> SentenceModule:
    if not isinstance(entry, dict):
        raise invalid_entry(path, name, entry, "an object with path and type")
    for key in ("type", "path"):
        if not isinstance(entry.get(key), str):
            raise invalid_entry(path, f"{name}.{key}", entry.get(key), "a string")
    if not _is_inside(entry["path"]):
        raise invalid_entry(path, f"{name}.path", entry["path"], "a folder inside the directory")
    folder = PurePosixPath(entry["path"]).as_posix()
    return SentenceModule(entry["type"].rpartition(".")[2], "" if folder == "." else folder)


def _is_inside(folder: str) -> bool:
    paths = [PurePosixPath(folder), PureWindowsPath(folder)]
    return "\0" not in folder and not any(path.anchor or path.drive or ".." in path.parts for path in paths)


def _modules_by_folder(directory: Path) -> list[SentenceModule]:
    if not directory.is_dir() or (directory / "config.json").is_file():
        return []
    matches = [match for path in directory.iterdir() if path.is_dir() and (match := _FOLDER.fullmatch(path.name))]
    matches.sort(key=lambda match: int(match["index"]))
    if not matches or int(matches[0]["index"]) != 0 or not (directory / matches[0][0] / "config.json").is_file():
        return []
    return [SentenceModule(match["kind"], match[0]) for match in matches]


def network_directory(directory: Path) -> Path:
    """Return the folder of the network: that of the first module, else the directory.

    Raises
    ------
    BackboneReadError
        As `read_modules` does, and if there is no such folder.
    """
    modules = read_modules(directory)
    network = directory / modules[0].folder if modules else directory
    if not network.is_dir() and network != directory:
        path = directory / "modules.json"
        raise invalid_entry(path, "modules[0].path", modules[0].folder, "a folder that is there")
    return network


def module_folders(directory: Path) -> list[str]:
    """Return the folders of all modules, the network's first; none if they are unknown."""
    try:
        return [module.folder for module in read_modules(directory)]
    except BackboneReadError:
        return []  # whoever reads the modules reports it
