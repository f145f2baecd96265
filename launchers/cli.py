"""The command line: ``interlace demo | prepare | inspect | check | pretrain | report | features | stream | export``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .evaluating import evaluating


def rank() -> int:
    """This process's number among those that torchrun or srun started; 0 alone."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


# In a file or a pipe lines stay whole, and tables get room.
console = Console(quiet=rank() > 0, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Multi-task pretraining of a streaming visual backbone.",
)
app.add_typer(evaluating(console), name="eval")

RecipePath = Annotated[
    Path, typer.Argument(help="A recipe's YAML file, or the name of one that ships.", show_default=False)
]
Changes = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, e.g. engine.steps=100", metavar="[KEY=VALUE]...")
]
RunPath = Annotated[Path, typer.Option("--run", help="The run's folder.")]


@app.command(
    epilog="Examples: interlace check mine.yaml engine.lr=2e-4 | "
    "interlace check omnistream_stage1 --gpus 64 --gpu-memory 80 --tflops 990"
)
def check(
    recipe: RecipePath,
    changes: Changes = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="Predict memory on so many GPUs.")] = None,
    memory: Annotated[float | None, typer.Option("--gpu-memory", min=0, help="GB of one GPU: does it fit?")] = None,
    tflops: Annotated[
        float | None, typer.Option("--tflops", min=1e-6, help="TFLOP/s of one GPU, dense: predict days.")
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", min=1e-6, max=1, help="Share of them that training reaches: a guess.")
    ] = 0.35,
) -> None:
    """Say everything that is wrong with a recipe, or what it will train on and what it will take. Creates nothing."""
    from .commands import check_recipe

    if gpus is None and (memory is not None or tflops is not None):
        raise ValueError("--gpu-memory and --tflops are of one GPU: say how many there are with --gpus")
    check_recipe(recipe, tuple(changes or ()), (gpus, memory, tflops, utilisation), console)


@app.command(epilog="Example: torchrun --nproc-per-node 8 -m interlace.launchers -- pretrain mine.yaml --run runs/mine")
def pretrain(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe's YAML file, or the name of one that ships.", show_default=False)
    ] = None,
    changes: Changes = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run's folder: runs/pretrain if left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint, if any.")] = False,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Run a stopped step again, here, from the file it left.")
    ] = None,
) -> None:
    """Train. Works alone, under torchrun and under srun."""
    from .commands import replay_step, train

    if (replay is None) == (recipe is None):
        raise typer.BadParameter("name a recipe or a --replay file, one of them")
    if replay is not None and (run is not None or resume):
        raise typer.BadParameter("leave out --run and --resume: a --replay file holds all that the step needs")
    if replay is not None:
        replay_step(replay, console)
    elif recipe is not None:
        train(recipe, tuple(changes or ()), run or Path("runs/pretrain"), resume, console)


@app.command(epilog="Examples: interlace demo --run runs/demo --seed 1 | interlace demo --full")
def demo(
    run: RunPath = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", help="Decides the initial weights and every random draw.")] = 0,
    long: Annotated[bool, typer.Option("--long", help="Train for longer: 82 minutes on 2 cores.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted demo.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Hand the backbone over too: export, probes, stream, VLM and VLA, one page. Planned for at most 90 "
            "minutes on 2 cores. Uses the run in the folder, if it has ended; a call that was interrupted goes on by "
            "itself.",
        ),
    ] = False,
) -> None:
    """Prepare input, train four tasks at once, and write a report: minutes, on a laptop's CPU."""
    from .commands import run_demo
    from .full import Plan, run_full

    if full and long:
        raise ValueError("--full trains the short demo: run `interlace demo --long` first, then --full on its folder")
    if full:
        run_full(run, seed, Plan(), console)
    else:
        run_demo(run, seed, long, resume, console)


@app.command(
    epilog="Examples: interlace prepare demo | interlace prepare table | interlace prepare ~/Pictures --to shards"
)
def prepare(
    what: Annotated[
        str,
        typer.Argument(help="'demo', 'questions', 'table', or a folder of jpg, png and mp4 files.", show_default=False),
    ],
    to: Annotated[Path | None, typer.Option("--to", help="Where the shards of a folder go.")] = None,
    long: Annotated[bool, typer.Option("--long", help="Of 'demo': with the rooms that demo --long adds.")] = False,
) -> None:
    """Make shards: of the demo's rooms, photographs and clips, of the robot table's episodes, or of your own files."""
    from .commands import prepare_input

    if long and what != "demo":
        raise ValueError(f"--long: only 'demo' has more rooms for a long run, not {what}")
    prepare_input(what, to, console, long)


@app.command(epilog="Example: interlace inspect demo --out page.html")
def inspect(
    what: Annotated[Path, typer.Argument(help="A recipe, or a folder of shards.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("inspect.html"),
) -> None:
    """Write a page that shows the data: frames, depth, camera paths, boxes, captions, statistics."""
    from .commands import inspect_data

    inspect_data(what, out, console)


@app.command(epilog="Examples: interlace report runs/demo | interlace report runs/a runs/b results/dinov3")
def report(
    run: Annotated[
        list[Path], typer.Argument(help="A run's folder; or several, or results, to compare.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Of a comparison: the page to write; comparison.html if left out.")
    ] = None,
) -> None:
    """Write a run's report.html again; or what `interlace eval` measured of several side by side, as a page too."""
    from .commands import write_report
    from .results import compare, holds_results

    if len(run) > 1 or holds_results(run[0]):
        compare(run, out or Path("comparison.html"), console)
        return
    if out is not None:
        raise ValueError(f"--out {out}: of comparisons alone; a run's page is its report.html")
    write_report(run[0], console)


BackbonePath = Annotated[str, typer.Option("--backbone", help="A backbone's folder, or a run's.", show_default=False)]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Pixels of the short side, a multiple of the patch; the long side keeps the shape. What the run or export "
        "was trained at if left out, or 224 where that is not known.",
    ),
]
Fps = Annotated[
    float | None, typer.Option("--fps", help="Units of the model's time in a second; pictures of a folder.")
]
Frames = Annotated[int | None, typer.Option("--frames", help="Watch so many frames and stop.")]
Window = Annotated[
    int | None, typer.Option("--window", min=1, help="Frames that a frame sees, itself included: 64 if left out.")
]
Sink = Annotated[
    int | None, typer.Option("--sink", min=0, help="First frames that stay in view besides: 1 if left out.")
]
MaxFrames = Annotated[int | None, typer.Option("--max-frames", min=1, help="See all frames, up to so many, instead.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Of keys and values: float32, bfloat16, float16, int8.")]


@app.command(epilog="Example: interlace features clip.mp4 --backbone runs/demo --layers 3,last --out clip.safetensors")
def features(
    footage: Annotated[str, typer.Argument(help="A video, or a folder of pictures.", show_default=False)],
    backbone: BackbonePath,
    out: Annotated[Path, typer.Option("--out", help="The safetensors file to write.", show_default=False)],
    layers: Annotated[str, typer.Option("--layers", help="Blocks from 0, and 'last' (normalised).")] = "last",
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    window: Window = None,
    sink: Sink = None,
    max_frames: MaxFrames = None,
    dtype: Dtype = None,
) -> None:
    """Write a frozen backbone's features of every frame, with their times and the backbone's hash."""
    from .features import write_features
    from .watching import Options

    write_features(backbone, footage, layers, out, Options(size, fps, frames, window, sink, max_frames, dtype), console)


@app.command(epilog="Examples: interlace stream runs/demo clip.mp4 --save out.mp4 | interlace stream runs/demo 0")
def stream(
    backbone: Annotated[str, typer.Argument(help="A backbone's folder, or a run's.", show_default=False)],
    footage: Annotated[str, typer.Argument(help="A video, a folder of pictures, or a camera.", show_default=False)],
    save: Annotated[Path | None, typer.Option("--save", help="Write a film (.mp4) or for rerun (.rrd).")] = None,
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    window: Window = None,
    sink: Sink = None,
    max_frames: MaxFrames = None,
    dtype: Dtype = None,
) -> None:
    """Watch a backbone at work: its features, and depth and pose with a run's heads, live."""
    from .streaming import stream_footage
    from .watching import Options

    options = Options(size, fps, frames, window, sink, max_frames, dtype)
    stream_footage(backbone, footage, options, save, console)


@app.command(
    epilog="Examples: interlace chat runs/vlm 'how many objects are there?' --video clip.mp4 | "
    "interlace chat runs/vlm --video 0"
)
def chat(
    model: Annotated[Path, typer.Argument(help="A run of task vlm, or what was exported of it.", show_default=False)],
    question: Annotated[
        str | None, typer.Argument(help="What to ask; of a camera it may be typed later.", show_default=False)
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture to ask about.")] = None,
    video: Annotated[str | None, typer.Option("--video", help="A video to ask about, or a live camera.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Where its backbone is, if it was moved.")] = None,
) -> None:
    """Ask a trained vision-language model about a picture, a video or a live camera."""
    from .chatting import chat

    chat(model, question, image, video, backbone, console)


@app.command(epilog="Example: interlace export runs/demo --to exported --licence apache-2.0")
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="The new folder.", show_default=False)],
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of the weights. Those that derive from DINOv3 keep its own.")
    ] = None,
) -> None:
    """Write a run's backbone and geometry heads, or its VLM, as a Hugging Face folder with a model card."""
    from .commands import export_backbone

    export_backbone(run, to, licence, console)


def main() -> None:
    """Run the command line. What a user can mend is a line on stderr and exit status 2, never a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        if not _for_the_user(error):
            raise
        typer.echo(_told(error), err=True)
        sys.exit(2)
    except SystemExit as stop:
        # A stopped run's account is the same on every rank: one is enough.
        if isinstance(stop.code, str) and rank() > 0:
            sys.exit(1)
        raise


def _for_the_user(error: ValueError | OSError) -> bool:
    """Raised by Interlace's own checks, or by the disk; anything else is a defect, whose traceback is wanted."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    own = (place, type(error).__module__)
    return isinstance(error, OSError) or any(name.startswith("interlace.") for name in own)


def _told(error: ValueError | OSError) -> str:
    """All of it on the first rank; elsewhere its first line: the others may fail alone, or all alike."""
    notes: list[str] = getattr(error, "__notes__", [])
    first, *more = [*(str(error).splitlines() or [type(error).__name__]), *notes]
    if rank() == 0:
        return "\n".join([first, *more]) if more else f"interlace: {first}"
    return f"interlace: rank {rank()}: {first}" + (f" (and {len(more)} more)" if more else "")
