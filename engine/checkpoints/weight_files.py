"""The weight files of a model folder, and their tensors: mapped into memory, never read whole.

Only the pages of a tensor that somebody looks at are read, and they belong to the file: the system
takes them back whenever it needs memory.
"""

from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spava_app.engine.checkpoints.files import read_object
from spava_app.errors import CheckpointError

SAFETENSORS, PICKLED = (".safetensors",), (".bin", ".pt")


def weight_files(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The files that hold a folder's weights.

    Those its index names; without an index the one with the usual name; without that, all. Other
    files are often copies of the same weights under other names. Pickled files count only where
    there is no safetensors file.

    Raises:
        CheckpointError: no weights, a file of the index is missing, or weights that are pickled,
            which may run code when loaded, without `allow_pickle`.
    """
    if files := _files(folder, "model.safetensors", SAFETENSORS):
        return files
    if not allow_pickle and any(file.suffix in PICKLED for file in folder.iterdir()):
        fix = "has only pickled weights, which can run code when loaded: convert to safetensors"
        raise CheckpointError("model", str(folder), fix)
    if files := _files(folder, "pytorch_model.bin", PICKLED):
        return files
    raise CheckpointError("model", str(folder), "give a folder with *.safetensors weights")


def stored_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, in CPU memory that is mapped from its file, one after the other.

    Raises:
        CheckpointError: a file is truncated, of another format, holds more than tensors, or is a
            pipe or device.
    """
    for file in files:
        if not file.is_file():  # opening a pipe or a device would wait for ever
            raise CheckpointError("model", str(file), "is not a regular file")
        yield from _pickled(file) if file.suffix in PICKLED else _safetensors(file)


def _files(folder: Path, usual: str, suffixes: tuple[str, ...]) -> list[Path]:
    index = folder / f"{usual}.index.json"
    if index.is_file():
        return _indexed(folder, index, suffixes)
    if (folder / usual).is_file():
        return [folder / usual]
    return sorted(file for suffix in suffixes for file in folder.glob(f"*{suffix}"))


def _indexed(folder: Path, index: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        names = sorted(set((read_object(index) or {})["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or ".." in name]
        other = [name for name in names if not name.endswith(suffixes)]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("model", str(index), "is not an index of weight files") from error
    if outside:
        raise CheckpointError("model", str(index), f"names a file outside the folder: {outside[0]}")
    if other:
        fix = f"names {other[0]}, which is not a {' or '.join(suffixes)} file"
        raise CheckpointError("model", str(index), fix)
    if missing := [name for name in names if not (folder / name).is_file()]:
        fix = f"lacks {len(missing)} of its {len(names)} weight files, first {missing[0]}"
        raise CheckpointError("model", str(folder), fix)
    return [folder / name for name in names]


def _safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                yield name, tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("model", str(file), "is truncated or not safetensors") from error


def _pickled(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        tensors = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError as error:
        fix = "holds more than tensors, which could run code: it was not loaded"
        raise CheckpointError("model", str(file), fix) from error
    except (OSError, RuntimeError, EOFError) as error:
        fix = "is truncated, or not a file of torch 1.6 or newer: save it again, or as safetensors"
        raise CheckpointError("model", str(file), fix) from error
    named = isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
    if not named or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        fix = "is not a table of tensors by name: give the weights alone, as a state_dict"
        raise CheckpointError("model", str(file), fix)
    yield from tensors.items()
