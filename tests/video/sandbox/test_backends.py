"""A decoder that is installed but cannot run here is named, and is no fault of ours."""

import sys
from socket import socketpair

import pytest

from spava_app.engine.processes.wire import Wire
from spava_app.engine.video.media_file import open_media
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sandbox.backends import OtherReader
from spava_app.engine.video.sandbox.pulse import Pulse
from spava_app.errors import InvalidInput


@pytest.mark.parametrize(
    ("decoder", "module"), [("decord", "__init__"), ("torchcodec", "decoders")]
)
@pytest.mark.parametrize("error", ["OSError", "ImportError", "RuntimeError"])
def test_a_library_that_cannot_be_loaded(decoder, module, error, videos, tmp_path, monkeypatch):
    """As a build for CUDA where there is none."""
    package = tmp_path / decoder
    package.mkdir()
    (package / "__init__.py").touch()
    (package / f"{module}.py").write_text(
        "try:\n    raise OSError('libnvrtc.so.13: no such file')\nexcept OSError as cause:\n"
        f"    raise {error}('Could not load this library') from cause\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == decoder]:
        monkeypatch.delitem(sys.modules, name)
    ours, theirs = socketpair()
    file = open_media(str(videos.short))
    with theirs, pytest.raises(InvalidInput, match=r"cannot be loaded \(libnvrtc.so.13") as caught:
        OtherReader(decoder, probe(videos.short).source([0]), file, 1, Pulse(Wire(ours)))
    assert (caught.value.field, caught.value.value) == ("decoder", decoder)
    sys.modules.pop(decoder, None)
