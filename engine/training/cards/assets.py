"""Everything of the embedded model's folder but its weights, so that it can be made again.

The folder follows what transformers saves for Qwen2.5-VL; sizes are those of a model that trains in
minutes.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.training.cards.questions import corpus

VOCAB_SIZE = 1024
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Special tokens come last, as in the published vocabulary.
TOKEN_ID = {token: VOCAB_SIZE - len(SPECIAL_TOKENS) + i for i, token in enumerate(SPECIAL_TOKENS)}

# Letters in runs with the space before them, digits one by one, then punctuation and white space.
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{%- set vision = {'image': '<|image_pad|>', 'video': '<|video_pad|>'} -%}
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] in vision -%}
{{- '<|vision_start|>' + vision[item['type']] + '<|vision_end|>' -}}
{%- elif item['type'] == 'text' -%}
{{- item['text'] -}}
{%- else -%}
{{- raise_exception('unknown content type: ' + item['type']) -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

# One square of 56 x 56 pixels, or a rectangle of the same area: at most four tokens per frame pair.
FRAME_PIXELS = {"shortest_edge": 3136, "longest_edge": 3136}
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
PATCH_SIZE, TEMPORAL_PATCH_SIZE, MERGE_SIZE = 14, 2, 2


def model_config() -> dict[str, Any]:
    """config.json: 5.6 million parameters, 4.4 of them in the decoder's layers."""
    hidden = 256
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        # Tells the model from others, so that nobody trusts its answers about anything else.
        "spava_app_reads": "card videos",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": TOKEN_ID["<|image_pad|>"],
        "video_token_id": TOKEN_ID["<|video_pad|>"],
        "vision_start_token_id": TOKEN_ID["<|vision_start|>"],
        "vision_end_token_id": TOKEN_ID["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": hidden,
            "intermediate_size": 704,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [16, 8, 8],
            },
            "bos_token_id": TOKEN_ID["<|endoftext|>"],
            "eos_token_id": TOKEN_ID["<|im_end|>"],
            "pad_token_id": TOKEN_ID["<|endoftext|>"],
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        },
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "depth": 2,
            "hidden_size": 128,
            "hidden_act": "silu",
            "intermediate_size": 256,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": PATCH_SIZE,
            "temporal_patch_size": TEMPORAL_PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "out_hidden_size": hidden,
            "initializer_range": 0.02,
            "dtype": "bfloat16",
        },
    }


def _processor_config() -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "patch_size": PATCH_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "size": FRAME_PIXELS,
        "processor_class": "Qwen2_5_VLProcessor",
    }


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the byte-level BPE: any UTF-8 round-trips, each colour word and each digit is one
    token.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.add_special_tokens(list(SPECIAL_TOKENS))
    if {token: core.token_to_id(token) for token in SPECIAL_TOKENS} != TOKEN_ID:
        raise RuntimeError("the corpus is too small to fill the vocabulary")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[
            token for token in SPECIAL_TOKENS if token not in {"<|im_end|>", "<|endoftext|>"}
        ],
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )


def write_assets(folder: Path) -> None:
    """Write configuration, tokenizer, chat template and processor settings; weights are not
    touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(folder)
    generation = {
        "bos_token_id": TOKEN_ID["<|endoftext|>"],
        "do_sample": False,
        "eos_token_id": [TOKEN_ID["<|im_end|>"], TOKEN_ID["<|endoftext|>"]],
        "pad_token_id": TOKEN_ID["<|endoftext|>"],
    }
    image = _processor_config() | {"image_processor_type": "Qwen2VLImageProcessor"}
    video = _processor_config() | {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "do_sample_frames": False,
        "fps": 2,
        "min_frames": 4,
        "max_frames": 2400,
    }
    for name, content in {
        "config.json": model_config(),
        "generation_config.json": generation,
        "preprocessor_config.json": image,
        "video_preprocessor_config.json": video,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    write_assets(EMBEDDED)
