"""How a card video is told from any other: by the comment in its container, which copies keep."""

from collections.abc import Mapping

CARD_COMMENT = "spava synth card video"


def is_card_video(metadata: Mapping[str, str]) -> bool:
    """Whether a container with these tags was written by `cards`, or copied from one that was."""
    # Matroska spells the name of the tag in capitals.
    return any(
        name.lower() == "comment" and value == CARD_COMMENT for name, value in metadata.items()
    )
