"""What is measured: a model, a method and a length."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.engine.parallel.base import make_method
from spava_app.engine.request import Request
from spava_app.errors import InvalidInput

K = 1024
# A prompt's question, in tokens.
QUERY_LEN = 64


@dataclass(frozen=True)
class Case:
    """A request to measure.

    Attributes:
        model: name of a geometry, or a folder.
        config: parsed config.json.
        folder: the checkpoint; None for weights made on the device.
        method, options: the prefill method.
        num_tokens: of the prompt.
    """

    model: str
    config: Mapping[str, Any]
    folder: Path | None
    method: str
    options: Mapping[str, Any]
    num_tokens: int

    def request(self, new_tokens: int) -> Request:
        """A text prompt of random tokens, the same on every rank."""
        text = self.config.get("text_config") or self.config.get("llm_config") or self.config
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(text["vocab_size"], (self.num_tokens,), generator=generator)
        query_len = min(QUERY_LEN, -(-self.num_tokens // 4))
        return Request(
            token_ids=tuple(ids.tolist()),
            query_len=query_len,
            system_len=0,
            question_len=query_len,
            method=self.method,
            options=dict(self.options),
            max_new_tokens=new_tokens,
            stop_ids=(),
        )


def read_case(text: str, *, ranks: int, checkpoint: Path | None) -> Case:
    """A case as it was written: "MODEL METHOD TOKENS [OPTION=VALUE ...]".

    Args:
        ranks: that it is to run on.
        checkpoint: where geometries have their checkpoints; None to make weights on the device.

    Raises:
        InvalidInput: a part that is missing, or that does not fit the others.
    """
    words = text.split()
    if len(words) < 3:
        raise InvalidInput("case", text, "give a model, a method and a number of tokens")
    model, name, length, *pairs = words
    number = length.upper().removesuffix("K")
    if not number.isdecimal() or int(number) < 1:
        raise InvalidInput("case", text, f"{length} is no number of tokens")
    num_tokens = int(number) * (K if length.upper().endswith("K") else 1)
    chosen = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput("case", text, f"{pair} is not OPTION=VALUE")
        chosen[option] = _value(value)
    if model in GEOMETRIES:
        config = GEOMETRIES[model]
        folder = None if checkpoint is None else checkpoint / model
    elif Path(model).is_dir():
        config, folder = read_config(Path(model)), Path(model)
    else:
        fix = f"give a folder, or one of {', '.join(GEOMETRIES)}"
        raise InvalidInput("model", model, fix)
    case = Case(model, config, folder, name, chosen, num_tokens)
    method, decoder = make_method(name, chosen), DecoderConfig.from_hf(config)
    method.check_heads(decoder.num_heads, decoder.num_kv_heads, ranks)
    method.layout(case.request(1).shape, ranks)
    return case


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
