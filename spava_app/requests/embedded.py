"""The embedded model: what it can do, and the warning where it is asked for more."""

from collections.abc import Iterable, Mapping
from typing import Any

from spava_app.requests.media_input import MediaInput

NO_TEXTS = "knows coloured cards and no texts: give the folder of a language model"
MEANINGLESS = (
    "the embedded model only reads coloured cards in videos from `spava synth`; its answer to "
    "anything else is meaningless: give a real model with --model (model= in Python)"
)


def is_embedded(config: Mapping[str, Any]) -> bool:
    """Whether this is its config.json, wherever the folder lies: it says so itself."""
    return config.get("spava_app_reads") == "card videos"


def warnings_about(config: Mapping[str, Any], seen: Iterable[MediaInput]) -> tuple[str, ...]:
    """What has to be said with an answer of this model about these media."""
    if not is_embedded(config):
        return ()
    cards_only = all(file.info is not None and file.info.cards for file in seen)
    return () if cards_only else (MEANINGLESS,)
