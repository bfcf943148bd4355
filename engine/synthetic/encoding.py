"""How generated videos are encoded: as H.264 whose bytes depend on the pictures alone."""

from av.container import OutputContainer
from av.video.stream import VideoStream

# By itself x264 takes one thread for each core, and what it writes depends on their number.
THREADS = 4
# Without this, x264 picks arithmetic by the CPU; that of its macroblock tree for AVX-512 reads
# memory that was never written, so that quantisers differ from run to run.
_REPRODUCIBLE = {"x264-params": "cpu-independent=1"}


def add_h264(
    container: OutputContainer, size: tuple[int, int], fps: int, *, key_every: int, **options: str
) -> VideoStream:
    """Add an H.264 stream to a container that is written.

    Args:
        size: (height, width) of its frames in pixels.
        fps: frames per second.
        key_every: most frames from one key frame to the next.
        options: of x264, by FFmpeg's names.
    """
    stream = container.add_stream("libx264", rate=fps, options={**options, **_REPRODUCIBLE})
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.gop_size = key_every
    context.thread_count, context.thread_type = THREADS, "FRAME"
    return stream
