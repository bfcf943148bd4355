"""Ask questions about long videos: prefill spread over several GPUs with Spava's query-aware
attention.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spava_app import forked as _forked  # noqa: F401 (it notes which process this is)

if TYPE_CHECKING:
    from spava_app.api.answer import Answer, Usage
    from spava_app.api.conversation import Conversation
    from spava_app.api.streaming import StageBegan, TextPiece
    from spava_app.api.text_qa import TextQA
    from spava_app.api.video_qa import VideoQA
    from spava_app.engine.planning.plan import Plan
    from spava_app.engine.sampling import GREEDY, Sampling
    from spava_app.engine.video.frames import Frames
    from spava_app.requests.options import AnswerOptions, AskOptions, FrameOptions

# Where each public name is defined.
_HOMES = {
    "Answer": "api.answer",
    "AnswerOptions": "requests.options",
    "AskOptions": "requests.options",
    "Conversation": "api.conversation",
    "FrameOptions": "requests.options",
    "Frames": "engine.video.frames",
    "GREEDY": "engine.sampling",
    "Plan": "engine.planning.plan",
    "Sampling": "engine.sampling",
    "StageBegan": "api.streaming",
    "TextPiece": "api.streaming",
    "TextQA": "api.text_qa",
    "Usage": "api.answer",
    "VideoQA": "api.video_qa",
}
__all__ = [
    "GREEDY",
    "Answer",
    "AnswerOptions",
    "AskOptions",
    "Conversation",
    "FrameOptions",
    "Frames",
    "Plan",
    "Sampling",
    "StageBegan",
    "TextPiece",
    "TextQA",
    "Usage",
    "VideoQA",
    "__version__",
]
__version__ = "0.1.0"
# Silent unless the program that uses this package wants its log.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # Lazy, so that `spava --help` and `import spava_app` need no torch.
    if name in _HOMES:
        return getattr(import_module(f"spava_app.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
