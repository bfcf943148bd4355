"""Loading and saving: every tensor where it belongs, whatever tool wrote the folder, and one line
for everything that can be wrong with it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
)

from spava_app.engine.checkpoints.load import load_model, materialise, save_checkpoint
from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.errors import CheckpointError

NORM, EMBEDDING, HEAD = "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Qwen25VL:
    return load_model(checkpoint)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@pytest.fixture
def shards(oracle: Qwen2_5_VLForConditionalGeneration, tmp_path: Path) -> Path:
    """The checkpoint in several files, with an index."""
    oracle.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    return tmp_path / "shards"


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rewrite(folder: Path, change: dict[str, Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors") | change
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")


def configure(folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))


def refusal(folder: Path, **options: Any) -> str:
    """The one line that says why `folder` does not load."""
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


MEMORY = """
import sys, threading, time
import torch
from spava_app.engine.checkpoints.load import load_model

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

def watch():
    while not done.wait(0.001):
        peaks.append(anonymous())

torch.ones(1 << 16).bfloat16().float()
before, peaks, done = anonymous(), [], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
model = load_model(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
done.set()
thread.join()
print(max(peaks) - before, sum(parameter.nbytes for parameter in model.parameters()))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MB of weights in four shards."""
    folder = tmp_path_factory.mktemp("large")
    config = Qwen2Config(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=4096,
        architectures=["Qwen2ForCausalLM"],
    )
    theirs = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    theirs.save_pretrained(folder, max_shard_size="60MB")
    assert len(list(folder.glob("*.safetensors"))) == 4
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_second_copy_in_memory(large: Path, dtype: str) -> None:
    """Besides the parameters, less than one fused tensor of a layer and a margin for threads."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(large), dtype],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    taken, parameters = map(int, done.stdout.split())
    assert parameters > 200e6
    assert taken < parameters + 2 * 2816 * 1024 * 2 + 8e6


class Scaled(nn.Module):
    """A module with a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("scale", torch.tensor([0.1, 0.2]), persistent=False)


def test_buffers_keep_their_values() -> None:
    with init_empty_weights(include_buffers=False):
        module = Scaled()
    assert module.linear.weight.is_meta
    materialise(module, "cpu", torch.bfloat16)
    assert module.linear.weight.shape == (2, 3)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta or p.requires_grad for p in module.parameters())
    assert torch.equal(module.get_buffer("scale"), torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("stored", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_of_any_float_type(
    model: Qwen25VL, folder: Path, stored: torch.dtype, dtype: torch.dtype
) -> None:
    tensors = load_file(folder / "model.safetensors")
    rewrite(folder, {name: tensor.to(stored) for name, tensor in tensors.items()})
    ours = load_model(folder, dtype=dtype)
    assert ours.training is False
    for a, b in zip(ours.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b.to(stored).to(dtype))


@pytest.mark.gpu
def test_straight_to_a_gpu(large: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        expected = load_model(large, dtype=dtype)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ours = load_model(large, device="cuda", dtype=dtype)
        peak = torch.cuda.max_memory_allocated() - before
        size = sum(parameter.nbytes for parameter in ours.parameters())
        largest = 4096 * 1024 * 2  # the embedding, as it lies in the file
        assert size <= peak < size + largest + size // 50  # the allocator rounds up
        assert all(
            torch.equal(a.cpu(), b)
            for a, b in zip(ours.parameters(), expected.parameters(), strict=True)
        )


def test_shards(model: Qwen25VL, shards: Path) -> None:
    files = sorted(shards.glob("*.safetensors"))
    assert len(files) > 3
    # Files that the index does not name are other tools' business.
    save_file({"layers.0.wq": torch.zeros(1)}, shards / "consolidated.safetensors")
    assert same(load_model(shards), model)
    files[1].unlink()
    expected = f"lacks 1 of its {len(files)} weight files, first {files[1].name}"
    assert expected in refusal(shards)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "is not a JSON object"),
        ("{", "is not valid JSON"),
        ('{"weight_map": {"a": 1}}', "is not an index of weight files"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "outside the folder: ../x.safetensors"),
        ('{"weight_map": {"a": "/x.safetensors"}}', "outside the folder: /x.safetensors"),
        ('{"weight_map": {"a": "x.bin"}}', "names x.bin, which is not a .safetensors file"),
    ],
)
def test_wrong_index(folder: Path, index: str, message: str) -> None:
    save_file({}, folder.parent / "x.safetensors")
    (folder / INDEX).write_text(index)
    assert message in refusal(folder)


def test_only_the_usual_name_counts_without_an_index(model: Qwen25VL, folder: Path) -> None:
    save_file({"layers.0.wq": torch.zeros(1)}, folder / "consolidated.safetensors")
    assert same(load_model(folder), model)
    # Under any other name, all files count, and none may repeat another.
    shutil.copy(folder / "model.safetensors", folder / "one.safetensors")
    (folder / "consolidated.safetensors").unlink()
    (folder / "model.safetensors").rename(folder / "two.safetensors")
    assert "in two of its files" in refusal(folder)
    (folder / "two.safetensors").unlink()
    assert same(load_model(folder), model)


def test_constants_that_other_tools_save(model: Qwen25VL, folder: Path) -> None:
    rewrite(folder, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    assert same(load_model(folder), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, f"lacks 1 tensors, first {NORM}"),
        ({HEAD: None}, f"lacks 1 tensors, first {HEAD}"),
        ({"z": torch.zeros(1), "b": torch.zeros(1)}, "has 2 unexpected tensors, first b"),
        ({NORM: torch.zeros(63)}, f"{NORM} has shape [63], config.json asks for [64]"),
        ({NORM: torch.zeros(64, 1)}, f"{NORM} has shape [64, 1], config.json asks for [64]"),
        (
            {"visual.patch_embed.proj.weight": torch.zeros(32, 3, 14, 14, 2)},
            "has shape [32, 3, 14, 14, 2], config.json asks for [32, 3, 2, 14, 14]",
        ),
        ({NORM: torch.zeros(64, dtype=torch.int32)}, f"{NORM} is int32: only 16, 32 and 64-bit"),
        ({NORM: torch.zeros(64).to(torch.float8_e4m3fn)}, f"{NORM} is float8_e4m3fn: only"),
    ],
)
def test_wrong_tensors(folder: Path, change: dict[str, Tensor | None], message: str) -> None:
    rewrite(folder, change)
    # Told before memory is taken: here that would fail in another way, where there is no GPU.
    assert message in refusal(folder, device="cuda")


@pytest.mark.parametrize("device", [False, True])
def test_weights_that_never_end(folder: Path, device: bool) -> None:
    file = folder / "model.safetensors"
    file.unlink()
    file.symlink_to("/dev/zero") if device else os.mkfifo(file)
    assert "model.safetensors': is not a regular file" in refusal(folder)


@pytest.mark.parametrize("cut", [lambda data: data[:-100], lambda data: data[:50], lambda _: b""])
def test_truncated_file(folder: Path, cut: Callable[[bytes], bytes]) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(cut(weights.read_bytes()))
    assert "model.safetensors': is truncated or not safetensors" in refusal(folder)
    weights.unlink()
    assert "give a folder with *.safetensors weights" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architectures": ["Other"]},
            "architectures=['Other'] is not supported; supported: InternVLChatModel, ",
        ),
        ({"vision_config": {}}, "config.json asks for [3584]"),
        ({"vision_config": []}, "config.json': vision_config=[]: must be an object"),
        ({"text_config": {"model_type": "qwen2"}}, "config.json asks for [151936, 4096]"),
        ({"text_config": [1]}, "config.json': text_config=[1]: must be an object"),
        (
            {"quantization_config": {"quant_method": "awq"}},
            "quantization_config={'quant_method': 'awq'}: quantized weights are not supported",
        ),
    ],
)
def test_wrong_config(folder: Path, config: dict[str, Any], message: str) -> None:
    configure(folder, config)
    assert message in refusal(folder)


def test_no_config(folder: Path) -> None:
    for content, message in (("[]", "not a JSON object"), ("{", "not valid JSON")):
        (folder / "config.json").write_text(content)
        assert message in refusal(folder)
    (folder / "config.json").unlink()
    assert "give a folder with a config.json" in refusal(folder)
    assert "there is no such folder" in refusal(folder / "none")


def tied(folder: Path, *, outer: bool, inner: bool) -> None:
    """Let config.json say whether the head is the embedding, in the two places it can."""
    text = json.loads((folder / "config.json").read_text())["text_config"]
    text = text | {"tie_word_embeddings": inner}
    configure(folder, {"tie_word_embeddings": outer, "text_config": text})


@pytest.mark.parametrize(("outer", "inner"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("stored", ["none", "equal", "different"])
def test_tied_embeddings_like_transformers(
    folder: Path, outer: bool, inner: bool, stored: str
) -> None:
    tied(folder, outer=outer, inner=inner)
    if stored != "different":
        embedding = load_file(folder / "model.safetensors")[EMBEDDING]
        rewrite(folder, {HEAD: embedding.clone() if stored == "equal" else None})
    ours = load_model(folder).decoder
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.logits(hidden), theirs.lm_head(hidden))
    assert (ours.lm_head is None) == (stored != "different")
    assert torch.equal(ours.embed_tokens.weight, theirs.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {HEAD: torch.zeros(299, 64)},
            f"{HEAD} has shape [299, 64], config.json asks for [300, 64]",
        ),
        ({HEAD: None, "other": torch.zeros(300, 64)}, "has 1 unexpected tensors, first other"),
    ],
)
def test_what_is_not_the_head_of_a_tied_model(
    folder: Path, change: dict[str, Tensor | None], message: str
) -> None:
    tied(folder, outer=True, inner=True)
    rewrite(folder, change)
    assert message in refusal(folder)


class Touch:
    """Unpickled, it runs a command."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.file}",)


@pytest.fixture
def pickled(oracle: Qwen2_5_VLForConditionalGeneration, folder: Path) -> Path:
    """The checkpoint as tools of before safetensors wrote it, in two shards."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        torch.save(part, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    torch.save({"lr": 1e-4}, folder / "training_args.bin")
    return folder


def test_pickled_weights(model: Qwen25VL, pickled: Path) -> None:
    assert "only pickled weights, which can run code when loaded" in refusal(pickled)
    assert same(load_model(pickled, allow_pickle=True), model)
    shard = pickled / "pytorch_model-1.bin"
    whole = shard.read_bytes()
    for cut in (whole[:-100], whole[:100], b""):
        shard.write_bytes(cut)
        assert "is truncated, or not a file of torch" in refusal(pickled, allow_pickle=True)
    for content in ([torch.zeros(1)], {"state_dict": {}}, {1: torch.zeros(1)}):
        torch.save(content, shard)
        assert "is not a table of tensors by name" in refusal(pickled, allow_pickle=True)
    shard.unlink()
    assert "lacks 1 of its 2 weight files" in refusal(pickled, allow_pickle=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_never_runs(pickled: Path, zipped: bool) -> None:
    ran = pickled / "ran"
    content = {NORM: torch.zeros(64), "x": Touch(ran)}
    file = pickled / "pytorch_model-1.bin"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert "pickled weights" in refusal(pickled)
    expected = "holds more than tensors, which could run code" if zipped else "not a file of torch"
    assert expected in refusal(pickled, allow_pickle=True)
    assert not ran.exists()
    torch.load(file, weights_only=False)  # it would have run
    assert ran.exists()


def test_saved_checkpoint_is_read_by_transformers(
    oracle: Qwen2_5_VLForConditionalGeneration, model: Qwen25VL, checkpoint: Path, tmp_path: Path
) -> None:
    save_checkpoint(model, tmp_path, torch.float32)
    shutil.copy(checkpoint / "config.json", tmp_path)
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    for name, parameter in oracle.named_parameters():
        assert torch.equal(theirs.get_parameter(name), parameter), name


@pytest.mark.parametrize("tie", [True, False])
def test_saved_text_checkpoint_is_read_by_transformers(tmp_path: Path, tie: bool) -> None:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=120,
        tie_word_embeddings=tie,
    )
    oracle = AutoModelForCausalLM.from_config(config)
    oracle.save_pretrained(tmp_path / "theirs")
    save_checkpoint(load_model(tmp_path / "theirs"), tmp_path / "ours", torch.float32)
    shutil.copy(tmp_path / "theirs" / "config.json", tmp_path / "ours")
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path / "ours"), oracle)
