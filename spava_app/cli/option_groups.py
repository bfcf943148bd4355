"""Options that several commands share, as groups: each is said once.

A command takes a group as one parameter; `spread` turns it into the options that click sees. Every
option may also be given as SPAVA_NAME in the environment, or as `name` in the configuration file.
"""

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from spava_app.errors import InvalidInput
from spava_app.requests.options import DEFAULT_MAX_NEW_TOKENS

ENVIRONMENT = "SPAVA_"
_MODELS_OWN = "the model's own, in generation_config.json"
# Of each pair one may be given. A method besides excludes the options that it has not.
RIVALS = (("fps", "frames"), ("fps", "frame_rule"), ("passing_fraction", "passing_len"))
METHOD_OPTIONS = ("passing_fraction", "passing_len", "anchor_len", "virtual_hosts")
# What the library calls otherwise, and names so in its errors.
OPTIONS_OF_FIELDS = {"num_frames": "frames", "num_cards": "cards"}


@dataclass(frozen=True)
class ModelGroup:
    """Which model, on what, by which method."""

    model: Annotated[
        str,
        typer.Option(
            help="`embedded` (knows only card videos), a model's folder, or its name on the "
            "Hugging Face hub."
        ),
    ] = "embedded"
    gpus: Annotated[
        str, typer.Option(help="How many GPUs: `auto` takes all there are, `0` none.")
    ] = "auto"
    cpu_ranks: Annotated[
        int | None,
        typer.Option(
            help="Processes that share the work where there is no GPU.",
            show_default="2, or those of torchrun",
        ),
    ] = None
    method: Annotated[
        str,
        typer.Option(
            help="How the prefill attends: `spava`, `apb`, `star` (approximate), `ring`, "
            "`zigzag_ring`, `ulysses`, or `full` on one rank (exact); `auto` is exact where that "
            "is as fast, else `spava`."
        ),
    ] = "auto"
    passing_fraction: Annotated[
        float | None,
        typer.Option(
            help="spava, apb: share of each block passed on, 0 (fastest) to 1 (spava: exact).",
            show_default="from the length",
        ),
    ] = None
    passing_len: Annotated[
        int | None,
        typer.Option(
            help="spava, apb: tokens of each block passed on, instead of --passing-fraction.",
            show_default="from the length",
        ),
    ] = None
    anchor_len: Annotated[
        int | None,
        typer.Option(
            help="spava, apb, star: first tokens, which every block sees.",
            show_default="from the length",
        ),
    ] = None
    virtual_hosts: Annotated[
        int | None,
        typer.Option(
            help="spava, apb, star: blocks the context is cut in; more, less attention work.",
            show_default="2 x ranks",
        ),
    ] = None
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle", help="Load *.bin weights if there is no safetensors, tensors only."
        ),
    ] = False

    def keywords(self) -> dict[str, Any]:
        """Arguments of `TextQA`, and with a cache of `VideoQA`."""
        options = {name: getattr(self, name) for name in METHOD_OPTIONS}
        return {
            "model": self.model,
            "gpus": count_of_gpus(self.gpus),
            "cpu_ranks": self.cpu_ranks,
            "method": self.method,
            # Those that were not given stay out: a method refuses options that it has not.
            "method_options": {name: it for name, it in options.items() if it is not None},
            "allow_pickle": self.allow_pickle,
        }


@dataclass(frozen=True)
class FrameGroup:
    """What is looked at."""

    fps: Annotated[
        float | None, typer.Option(help="Frames per second to look at.", show_default="chosen")
    ] = None
    frames: Annotated[
        int | None,
        typer.Option(help="Frames to look at, instead of --fps.", show_default="chosen"),
    ] = None
    frame_rule: Annotated[
        str | None,
        typer.Option(
            help="Choose frames as a benchmark does: `longvideobench`, `spava-short`, `vnbench`, "
            "`internvl` or `qwen-vl-utils`.",
            show_default="by time",
        ),
    ] = None
    max_pixels: Annotated[
        int | None,
        typer.Option(
            help="Make frames no larger than so many pixels.", show_default="the model's own"
        ),
    ] = None
    max_visual_tokens: Annotated[
        int | None,
        typer.Option(
            help="Shrink frames, then take fewer, to fit into so many tokens.",
            show_default="what the model takes",
        ),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Options of `VideoQA.ask`."""
        given = asdict(self)
        given["num_frames"] = given.pop("frames")
        return given


@dataclass(frozen=True)
class AnswerGroup:
    """How an answer is made."""

    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of tokens to generate.",
            show_default=f"the model's own, else {DEFAULT_MAX_NEW_TOKENS}",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(
            help="0 takes the best token each time; more, more variety.", show_default=_MODELS_OWN
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the most probable tokens that make up this share.",
            show_default=_MODELS_OWN,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Sample from this many most probable tokens; 0 for all.", show_default=_MODELS_OWN
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 1, tokens of the prompt and the answer become less probable; 1 for none.",
            show_default=_MODELS_OWN,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 0

    def keywords(self) -> dict[str, Any]:
        """Options of `ask`."""
        from spava_app.engine.sampling import Sampling

        given = asdict(self)
        new_tokens = given.pop("max_new_tokens")
        return {"max_new_tokens": new_tokens, "sampling": Sampling(**given)}


@dataclass(frozen=True)
class OutputGroup:
    """How results and errors are shown."""

    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object; an error is one JSON line on stderr."),
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Write the log to stderr: `-v` what happens, `-vv` in detail.",
            show_default=False,
        ),
    ] = 0


def count_of_gpus(given: str) -> int | str:
    """`auto`, or a number."""
    try:
        return given if given == "auto" else int(given)
    except ValueError:
        raise InvalidInput("gpus", given, "give auto or a number") from None


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with the options of its groups instead of the groups."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(group := hints[name]):
            groups[name] = group
            kinds = get_type_hints(group, include_extras=True)
            for field in fields(group):
                default = inspect.Parameter.empty if field.default is MISSING else field.default
                parameters.append(_option(field.name, kinds[field.name], default))
        else:
            parameters.append(_option(name, hints[name], parameter.default))

    @wraps(command)
    def spreaded(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    spreaded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spreaded.__annotations__ = {one.name: one.annotation for one in parameters}
    return spreaded


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """A parameter of a command; an option is also read from the environment."""
    kind, *extras = get_args(annotation) or (annotation,)
    if extras and isinstance(extras[0], OptionInfo):
        extras[0] = copy(extras[0])
        # Flags are told by what they are called on the command line: --json is SPAVA_JSON. In an
        # annotation the first of these words stands where otherwise the default does.
        words = (extras[0].default, *(extras[0].param_decls or ()))
        long = [word for word in words if isinstance(word, str) and word.startswith("--")]
        written = long[0].strip("-").replace("-", "_") if long else name
        extras[0].envvar = f"{ENVIRONMENT}{written.upper()}"
        extras[0].show_envvar = False  # said once, below the list of commands
        annotation = Annotated[(kind, *extras)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
