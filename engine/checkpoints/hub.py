"""Where a model comes from: the embedded one, a folder, or the Hugging Face hub, whose files are
fetched once and stay in its cache.
"""

import os
import re
import sys
from pathlib import Path

import spava_app
from spava_app.errors import CheckpointError
from spava_app.terminal_text import bars_drawn

EMBEDDED = Path(spava_app.__file__).parent / "assets" / "spava-tiny-vl"
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# Nothing in subfolders is read; "consolidated" files repeat the weights under other names.
UNWANTED = ["*/*", "consolidated*"]
HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<revision>.+))?")
# Seconds the hub may take to say that it has a model; what is downloaded has limits of its own.
ANSWER_SECONDS = 10
UNREACHED = (
    "there is no such folder, the hub's cache does not hold all of it, and the hub cannot be "
    "reached (offline, or it is down): download it elsewhere and give the folder"
)


def resolve_model(model: str | Path) -> Path:
    """The folder that holds `model`, absolute.

    Args:
        model: "embedded", a folder, or a model of the hub, `org/name` or `org/name@revision`. A
            folder that exists wins over the hub; a `Path` never names a model of it.

    Raises:
        CheckpointError: no such folder, or a model that the hub does not have or does not give.
    """
    if model == "embedded":
        return EMBEDDED
    path = os.path.expanduser(model)
    if path and os.path.isdir(path):
        return Path(path).absolute()
    if os.path.isfile(path):
        raise CheckpointError("model", str(model), "is a file: give the folder that it is in")
    if isinstance(model, str) and (hub_id := HUB_ID.fullmatch(model)):
        return _fetch(model, hub_id["name"], hub_id["revision"])
    if isinstance(model, Path) or "/" in model or model.startswith((".", "~")):
        raise CheckpointError("model", str(model), "there is no such folder")
    fix = "give embedded, a folder, or a model of the hub like Qwen/Qwen2.5-VL-3B-Instruct"
    raise CheckpointError("model", model, fix)


def _fetch(model: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()

    def snapshot(*, local: bool) -> Path:
        with bars_drawn():
            found = snapshot_download(
                name,
                revision=revision,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
                local_files_only=local,
            )
        return Path(found)

    failure: Exception | None = None
    try:
        # Asked first, because snapshot_download by itself waits for this answer without end.
        HfApi().model_info(name, timeout=ANSWER_SECONDS)
    except Exception as error:  # noqa: BLE001 (those of its HTTP library change with its version)
        failure = error
    try:
        return snapshot(local=failure is not None)
    except Exception as error:  # noqa: BLE001 (as above)
        failure = failure or error
        raise CheckpointError("model", model, _advice(failure, name, revision)) from failure


def _advice(error: Exception, name: str, revision: str | None) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HFValidationError):
        return "is neither a folder nor a name that the hub allows"
    if isinstance(error, GatedRepoError):
        return f"is gated: accept its terms on huggingface.co/{name}, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "neither a folder nor on the hub; if it is private there, `hf auth login` first"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {revision} of it"
    if isinstance(error, HfHubHTTPError):
        if (status := error.response.status_code) == 401:
            return "the hub refuses your token: `hf auth login` again"
        return f"the hub answers with status {status}: try later, or give a folder"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be fetched into the hub's cache ({error.strerror})"
    return UNREACHED
