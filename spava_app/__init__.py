"""Ask questions about long videos: prefill spread over several GPUs with Spava's query-aware
attention.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spava_app.api import Answer, Frames, Sampling, Usage, VideoQA

__all__ = ["Answer", "Frames", "Sampling", "Usage", "VideoQA", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, so that `spava --help` and `import spava_app` need no torch.
    if name in {"Answer", "Frames", "Sampling", "Usage", "VideoQA"}:
        return getattr(import_module("spava_app.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
