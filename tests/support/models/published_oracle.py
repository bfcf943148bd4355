"""What transformers makes of a model folder, and what this project does, in token ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from spava_app import TextQA, VideoQA
from spava_app.engine.request import Request
from spava_app.requests.media_input import Question, look

FairLock = Sequence[tuple[str, str]]


def _processor(folder: Path) -> ProcessorMixin:
    """transformers' own, without the part for videos, which needs torchvision."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if "internvl" in folder.name:
        kind, pictures = InternVLProcessor, GotOcr2ImageProcessorPil
    else:
        kind, pictures = Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil
    # Checking the classes of its parts imports torchvision too.
    unchecked = {"check_argument_for_proper_class": lambda self, name, argument: type(argument)}
    found = kind.get_processor_dict(folder)[0]
    return type(kind.__name__, (kind,), unchecked)(
        image_processor=pictures.from_pretrained(folder),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=found.get("chat_template"),
        **{name: value for name, value in found.items() if name == "image_seq_length"},
    )


def write_pictures(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Path]:
    """Coarse noise, by name, of these widths and heights."""
    random = np.random.default_rng(0)
    for name, (width, height) in sizes.items():
        noise = random.integers(0, 256, (max(1, height // 20), max(1, width // 20), 3), np.uint8)
        Image.fromarray(noise).resize((width, height), 0).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in sizes}


def _messages(question: str, history: FairLock) -> list[dict[str, Any]]:
    turns = [text for pair in history for text in pair]
    return [
        {"role": "assistant" if i % 2 else "user", "content": text}
        for i, text in enumerate((*turns, question))
    ]


def picture_inputs(
    folder: Path, pictures: Sequence[Path], question: str, history: FairLock = ()
) -> dict[str, torch.Tensor]:
    """transformers' inputs of a prompt with pictures before its first text."""
    messages = [
        message | {"content": [{"type": "text", "text": message["content"]}]}
        for message in _messages(question, history)
    ]
    images = [{"type": "image", "image": Image.open(picture)} for picture in pictures]
    messages[0]["content"] = [*images, *messages[0]["content"]]
    return _processor(folder).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def text_ids(folder: Path, text: str, question: str, history: FairLock = ()) -> list[int]:
    """transformers' ids of a prompt about a text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = _messages(question, history)
    messages[0]["content"] = f"{text}\n\n{messages[0]['content']}"
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(given["input_ids"])


def request_of(qa: VideoQA | TextQA, asked: Question) -> Request:
    """What the workers would be given."""
    return qa._decide(asked.checked(), look(asked))[0]


def tokens_of(qa: VideoQA | TextQA, request: Request) -> list[int]:
    """What the workers make of a request."""
    tokens: list[int] = []

    def on_message(name: str, value: Any) -> None:
        if name == "token":
            tokens.append(value)

    qa._engine.start()
    qa._engine.run(request, on_message)
    return tokens


@torch.no_grad()
def generated(model: PreTrainedModel, request: Request, **inputs: Any) -> list[int]:
    """transformers' `generate` for the same prompt, its settings those of the folder unless given;
    what ends an answer is not part of it.
    """
    ids = torch.tensor([request.token_ids])
    out = model.generate(ids, max_new_tokens=request.max_new_tokens, pad_token_id=0, **inputs)
    tokens = out[0, ids.shape[1] :].tolist()
    return tokens[:-1] if tokens[-1] in request.stop_ids else tokens
