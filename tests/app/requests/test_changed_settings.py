"""A model folder with one setting changed: where it loads here and in transformers, both make the
same prompt of it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import llama, qwen_vl
from published_internvl import internvl_hf
from published_oracle import picture_inputs, text_ids, write_pictures
from setting_changes import DROPPED, changed, keys_of

from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.multimodal.processors import make_processor
from spava_app.errors import CheckpointError
from spava_app.requests.prompt import PromptBuilder

FILES = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
SIZE = (60, 100)


def ours(folder: Path) -> list[int]:
    config = read_config(folder)
    processor = make_processor(folder, config)
    prompts = PromptBuilder(folder, processor, config)
    if processor is None:
        return list(prompts.build("Why?", (), [("A?", "B.")], "text").token_ids)
    picture = processor.fit(1, *SIZE, picture=True)
    return list(prompts.build("Why?", [picture], [("A?", "B.")]).token_ids)


@pytest.mark.parametrize("make", [qwen_vl, internvl_hf, llama])
def test_both_make_the_same_prompt(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / make.__name__)
    pictures = list(write_pictures(tmp_path, {"picture": (SIZE[1], SIZE[0])}).values())

    def theirs() -> list[int]:
        if make is llama:
            return text_ids(folder, "text", "Why?", [("A?", "B.")])
        found: Any = picture_inputs(folder, pictures, "Why?", [("A?", "B.")])["input_ids"][0]
        return found.tolist()

    assert ours(folder) == theirs()
    both, other = 0, []
    for file in (folder / it for it in FILES if (folder / it).exists()):
        text = file.read_text()
        for keys in keys_of(json.loads(text)):
            if keys == ("image_seq_length",):
                continue  # its default is for tiles of 448 pixels
            for value in (DROPPED, 3) if file.name != FILES[-1] else (DROPPED,):
                file.write_text(json.dumps(changed(json.loads(text), keys, value)))
                try:
                    here = ours(folder)
                except CheckpointError:
                    continue
                try:
                    there = theirs()
                except Exception:  # noqa: BLE001 (it refuses in its own ways)
                    continue
                both += 1
                if here != there:
                    other.append((file.name, keys, value, len(here), len(there)))
        file.write_text(text)
    assert not other
    assert both > 3
