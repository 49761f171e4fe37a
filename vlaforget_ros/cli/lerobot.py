"""``vlaforget episodes export | import``: LeRobot data sets out of bags and into them."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlaforget_ros.cli.output import bar, console, errors, plain_table
from vlaforget_ros.errors import ErrorCode, UnlearningError

if TYPE_CHECKING:
    from vlaforget_ros.episodes.types import Problem

_JSON = typer.Option(
    None, "--json", dir_okay=False, help="Also write the result as JSON to FILE.", metavar="FILE"
)


class Verdict(StrEnum):
    """How an episode ended."""

    ANY = "any"
    SUCCESS = "success"
    FAILURE = "failure"


class Told(StrEnum):
    """What is said of episodes of which the data set says nothing."""

    UNKNOWN = "unknown"
    SUCCESS = "success"
    FAILURE = "failure"


class Pictures(StrEnum):
    """How images are stored in a bag."""

    RAW = "raw"
    PNG = "png"
    JPEG = "jpeg"


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("export")(export_lerobot)
    app.command("import")(import_lerobot)


def export_lerobot(
    bags: list[Path] = typer.Argument(
        ..., help="Bags (rosbag2 folders, .mcap or .db3 files), or folders of bags."
    ),
    out: Path = typer.Option(..., "--out", help="Folder of the data set; must not exist."),
    video: bool = typer.Option(
        True, "--video/--images", help="mp4 (H.264, small, loses a little) or PNG in the rows (exact, large)."
    ),
    fps: int | None = typer.Option(None, min=1, help="Frames a second; by default the median of the frames."),
    cameras: str = typer.Option("", help="Topics of further cameras, with commas."),
    state: str = typer.Option("", help="Topic of the robot's state (JointState)."),
    instruction: list[str] = typer.Option([], help="Only these instructions, or patterns such as `open *`."),
    rollout: list[str] = typer.Option([], help="Only these rollout ids, or patterns."),
    outcome: Verdict = typer.Option(Verdict.ANY, help="Only episodes that ended so."),
    without_violations: bool = typer.Option(False, "--without-violations", help="Only episodes without any."),
    robot: str = typer.Option("", help="Kind of robot, for the data set's description."),
    json: Path | None = _JSON,
) -> None:
    """Write episodes of bags as a LeRobot data set (v3.0), which LeRobot loads, trains on and shows.

    The instruction becomes the task, the state `observation.state`, the verdict `next.success` where every episode
    has one. LeRobot knows frames by number and a fixed rate; true stamps, violations, adapters and rollout ids go
    into `meta/vlaforget.parquet` beside its own files, so that `vlaforget episodes import` gets them back.

    Example: `vlaforget episodes export runs/bags/demo --out data/demo --images --outcome success`
    """
    from vlaforget_ros.episodes.folders import find_bags
    from vlaforget_ros.episodes.lerobot.conversion import export_bags
    from vlaforget_ros.episodes.selection import Selection
    from vlaforget_ros.episodes.types import TopicMap

    selection = Selection.model_validate(
        {
            "instructions": tuple(instruction),
            "rollout_ids": tuple(rollout),
            "outcome": outcome.value,
            "has_violation": False if without_violations else None,
        }
    )
    topics = TopicMap(cameras=_names(cameras), state=state)
    with bar("export", "episodes") as update:
        done = export_bags(
            find_bags(bags),
            out,
            topics=topics,
            selection=selection,
            fps=fps,
            video=video,
            robot=robot or None,
            update=update,
        )
    written = done.written
    document: dict[str, Any] = {
        "folder": str(written.folder),
        "episodes": written.episodes,
        "frames": written.frames,
        "tasks": written.tasks,
        "fps": written.fps,
        "pictures": "video (H.264)" if video else "images (PNG, exact)",
        "uneven_episodes": written.uneven,
    }
    _say(document, done.problems, "LeRobot data set", json)
    if written.uneven:
        errors.print(
            f"{written.uneven} episodes do not run at {written.fps} frames a second throughout: LeRobot sees them as "
            "if they did. Their true stamps are in meta/vlaforget.parquet.",
            highlight=False,
        )


def import_lerobot(
    dataset: Path = typer.Argument(
        ..., exists=True, file_okay=False, help="Folder with meta/, data/ and videos/."
    ),
    out: Path = typer.Option(..., "--out", help="Bag to write; must not exist."),
    cameras: str = typer.Option(
        "",
        help="Cameras, with commas, the main one first: `front,wrist`. By default `image`, or the only one.",
    ),
    camera_topics: str = typer.Option(
        "", "--topics", help="Topics of the further cameras, with commas; by default image_NAME."
    ),
    state: str = typer.Option("", help="Feature of the robot's state: `observation.state`."),
    state_topic: str = typer.Option("policy_state", help="Topic of the state."),
    episodes: str = typer.Option("", help="Only these episodes: `0:50`, `3,7,9` or both; by default all."),
    outcome: Told = typer.Option(
        Told.UNKNOWN,
        help="How episodes ended of which the data set does not say it. Demonstrations: success.",
    ),
    size: str = typer.Option("", help="Scale pictures to HEIGHTxWIDTH, such as that of your bags: 224x224."),
    pictures: Pictures = typer.Option(Pictures.PNG, help="How images are stored; jpeg loses a little."),
    storage: str = typer.Option("mcap", help="mcap or sqlite3."),
    json: Path | None = _JSON,
) -> None:
    """Write a LeRobot data set (v2 or v3) as a bag with this package's topics, on which every other command works.

    Its episodes can then be retained by an edit: name the bag in `bags` of the request. Actions are copied as they are:
    the data set must use the units and the order of your policy's actions (docs/lerobot.md). `--outcome success` says
    of episodes without a verdict that they succeeded; without it `outcome: success` in a request does not choose them.

    Example: `vlaforget episodes import data/pick --out runs/bags/pick --cameras front --size 224x224 --outcome success`
    """
    from vlaforget_ros.episodes.lerobot.conversion import import_dataset
    from vlaforget_ros.episodes.lerobot.reading import LeRobotReader

    told = {Told.UNKNOWN: None, Told.SUCCESS: True, Told.FAILURE: False}[outcome]
    scaled = _size(size)
    if storage not in ("mcap", "sqlite3"):
        raise _bad("unknown storage", storage, "mcap, sqlite3")
    reader = LeRobotReader(dataset, cameras=_names(cameras), state=state, outcome=told, size=scaled)
    with bar("import", "episodes") as update:
        done = import_dataset(
            reader,
            out,
            indices=_indices(episodes, reader.indices),
            camera_topics=_names(camera_topics),
            state_topic=state_topic,
            storage="mcap" if storage == "mcap" else "sqlite3",
            compressed="png" if pictures is Pictures.PNG else "jpeg" if pictures is Pictures.JPEG else "",
            update=update,
        )
    document: dict[str, Any] = {
        "bag": str(done.bag),
        "episodes": done.episodes,
        "frames": done.frames,
        "cameras": list(reader.cameras),
        "topics": list(done.topics),
        "actions": done.actions,
        "outcome_told": outcome.value,
    }
    _say(document, done.problems, "bag", json)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise _bad("the size is not understood", text, "HEIGHTxWIDTH in pixels, such as 224x224")
    return int(height), int(width)


def _indices(text: str, known: list[int]) -> list[int] | None:
    """Episodes by number: single ones, and ranges without their end as in Python."""
    if not text:
        return None
    wanted: list[int] = []
    for part in _names(text):
        first, colon, last = part.partition(":")
        if not all(end.isdecimal() or (colon and not end) for end in (first, last or first)):
            raise _bad(
                "the episodes are not understood", part, "numbers such as 3,7,9 or a range such as 0:50"
            )
        if not colon:
            wanted.append(int(first))
            continue
        start, stop = int(first or 0), int(last or max(known) + 1)
        wanted += [index for index in known if start <= index < stop]
    return list(dict.fromkeys(wanted))


def _say(document: dict[str, Any], problems: tuple[Problem, ...], title: str, json: Path | None) -> None:
    rows = [[name.replace("_", " "), _text(value)] for name, value in document.items()]
    console.print(plain_table(["", title], rows))
    for problem in problems:
        console.print(
            f"left out: {problem.count} × {problem.kind} in {problem.rollout_id or problem.source}: {problem.message}",
            highlight=False,
            markup=False,
        )
    if json is not None:
        from vlaforget_ros import figures

        figures.write(json, {**document, "problems": [asdict(problem) for problem in problems]})
        errors.print(f"JSON: {json}")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _bad(message: str, value: str, limit: str) -> UnlearningError:
    return UnlearningError(ErrorCode.UNLEARNING_BAD_REQUEST, message, value=value, limit=limit)
