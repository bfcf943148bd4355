"""All ranks of a benchmark: their processes, and one report from what each of them says."""

import multiprocessing
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.bench import report
from spava_app.engine.bench.cases import Case
from spava_app.engine.bench.rank import RankSetup, serve
from spava_app.engine.checkpoints.random import check_empty, write_random_checkpoint
from spava_app.errors import EngineDown


def measure(setup: RankSetup, cases: Sequence[Case], *, write_first: bool) -> dict[str, Any]:
    """The whole report, as it goes into the JSON file; lines are printed as they come.

    Args:
        write_first: write a random checkpoint to each case's folder before it is loaded.

    Raises:
        EngineDown: a rank failed.
    """
    found = versions(setup.device)
    report.say(", ".join(f"{name} {value}" for name, value in found.items() if value))
    whole = {"versions": found, **asdict(setup), "dtype": str(setup.dtype).removeprefix("torch.")}
    if write_first:
        folders = {case.folder: case for case in cases if case.folder is not None}
        for folder in folders:
            check_empty(folder)
        whole["written"] = [_write(folder, case, setup) for folder, case in folders.items()]
    return whole | _put_together(setup, cases)


def versions(device: str) -> dict[str, str | int | None]:
    on_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "python": platform.python_version(),
    }


def _write(folder: Path, case: Case, setup: RankSetup) -> dict[str, Any]:
    """Write a checkpoint from a process of its own, whose memory is gone before it is loaded."""
    started = time.perf_counter()
    options = {"dtype": setup.dtype, "device": setup.device}
    process = multiprocessing.get_context("spawn").Process(
        target=write_random_checkpoint, args=(case.config, folder), kwargs=options
    )
    process.start()
    process.join()
    if process.exitcode:
        raise EngineDown(f"writing {folder} failed with exit code {process.exitcode}")
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    report.say(f"wrote {case.model}: {size / 1e9:.2f} GB in {seconds:.1f} s")
    return {"model": case.model, "bytes": size, "seconds": seconds}


def _put_together(setup: RankSetup, cases: Sequence[Case]) -> dict[str, Any]:
    loads: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    matmul: list[float] = []
    for kind, values in _answers(setup, cases):
        if kind == "matmul":
            matmul = [value / 1e12 for value in values]
            report.say(f"matrix product: {min(matmul):.4g} TFLOP/s")
        elif kind == "load":
            loads.append({"model": cases[len(rows)].model, "ranks": values})
            report.print_load(loads[-1])
        else:
            rows.append(report.row(cases[len(rows)], values))
            report.print_row(rows[-1])
    return {"matmul_tflops": matmul, "loads": loads, "cases": rows}


def _answers(setup: RankSetup, cases: Sequence[Case]) -> Iterator[tuple[str, list[Any]]]:
    """(kind, the ranks' values), as all ranks have said them."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes: list[Connection] = []
        processes = []
        for rank in range(setup.ranks):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve,
                args=(rank, setup, f"file://{folder}/rendezvous", tuple(cases), theirs),
                daemon=True,
            )
            process.start()
            theirs.close()  # so that a process that dies is heard of at once
            pipes.append(ours)
            processes.append(process)
        try:
            while (answer := _together(pipes))[0] != "done":
                yield answer
        finally:
            for process in processes:
                process.join(0 if process.exitcode is None else 10)
                process.kill()


def _together(pipes: Sequence[Connection]) -> tuple[str, list[Any]]:
    """The next answer of all ranks."""
    kind, values = "done", []
    for rank, pipe in enumerate(pipes):
        try:
            kind, value = pipe.recv()
        except EOFError:
            raise EngineDown(f"rank {rank} ended without a word") from None
        if kind == "failed":
            raise EngineDown(value)
        values.append(value)
    return kind, values
