"""``vlaforget episodes``: what is in recorded bags, in tables and pictures, and what is wrong with them."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlaforget_ros.cli import episode_tables
from vlaforget_ros.cli.output import Update, bar, console, errors, print_json
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.figures import write

if TYPE_CHECKING:
    from vlaforget_ros.episodes.catalogue.index import Index
    from vlaforget_ros.episodes.mapped.mapping import TopicMapping

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Recorded episodes: from an incident to a forget set.

`index` a folder of bags once, `list` what is in it, `show` the episode in question, `check` its bag, then choose
with `vlaforget request new`. A walk through: docs/episodes.md.
""",
)

_PLACE = typer.Argument(None, help="Folder of bags, or one bag (mcap or sqlite3); the current folder.")
_PLACES = typer.Argument(None, help="Folders of bags, or bags (mcap or sqlite3); the current folder.")
_MAPPING = typer.Option(
    None, "--mapping", help="YAML file that says what the topics mean, for bags without vlaforget's topics."
)
_JSON = typer.Option(None, "--json", help="Write everything here as JSON, too; - prints it instead.")


class Outcome(StrEnum):
    """How an episode ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABORTED = "aborted"
    ANY = "any"


@app.callback()
def _root() -> None:
    pass


@app.command()
def index(
    folder: Path = typer.Argument(..., help="Folder of bags; bags below it are found at any depth."),
    out: Path | None = typer.Option(None, help="File of the index; FOLDER/.vlaforget/episodes.jsonl."),
    mapping: Path | None = _MAPPING,
    json_path: Path | None = _JSON,
) -> None:
    """Read the bags of a folder once, and keep what each episode is.

    Only new and changed bags are read the next time, bags that are gone are dropped. Stop it whenever you like: it goes
    on after the last bag. `list` and `show` bring the index up to date by themselves.

    Example: `vlaforget episodes index runs/bags`
    """
    from vlaforget_ros.episodes.catalogue.index import index_path

    found = _open(folder, mapping, out or index_path(folder))
    entries = found.episodes
    for bag, error in found.unreadable.items():
        errors.print(f"[red]unreadable[/] {bag}: {error}", highlight=False)
    gone = f", {len(found.gone)} gone" if found.gone else ""
    console.print(
        f"bags: {len(found.lines)} ({found.read} read{gone}, {len(found.unreadable)} unreadable)\n"
        f"episodes: {len(entries)} ({sum(entry.info.violated for entry in entries)} with violations,"
        f" {sum(bool(entry.health) for entry in entries)} with problems)",
        highlight=False,
    )
    console.print(str(found.file), highlight=False, soft_wrap=True)
    _write(episode_tables.listing(entries, [found]), json_path)


@app.command("list")
def list_(
    places: list[Path] = _PLACES,
    instruction: list[str] = typer.Option([], help="Instruction or pattern such as 'open *'; repeatable."),
    rule: list[str] = typer.Option([], help="Broken rule or pattern such as 'keep_out/*'; repeatable."),
    outcome: Outcome = typer.Option(Outcome.ANY, help="How it ended."),
    adapter: list[str] = typer.Option([], help="Digest, its first 8 or more digits, or base; repeatable."),
    since: str = typer.Option("", help="First frame at or after: 2026-11-22T14:30 (UTC), or seconds."),
    until: str = typer.Option("", help="First frame before: as --since."),
    violated: bool | None = typer.Option(None, "--violated/--clean", help="With a violation, or without."),
    damaged: bool = typer.Option(False, "--damaged", help="Only episodes with gaps or problems."),
    mapping: Path | None = _MAPPING,
    json_path: Path | None = _JSON,
) -> None:
    """The episodes of a folder, one line for each: instruction, end, adapter, violations, rate, health.

    Filters mean what they mean in a request; every filter given must hold.

    Example: `vlaforget episodes list runs/bags --rule 'keep_out/*' --since 2026-11-22`
    """
    from vlaforget_ros.episodes.selection import Selection, describe

    opened = [_open(place, mapping) for place in places or [Path()]]
    entries = [entry for found in opened for entry in found.episodes]
    conditions = {
        "instructions": instruction,
        "violation_rules": rule,
        "has_violation": violated,
        "outcome": "any" if outcome is Outcome.ABORTED else outcome.value,
        "adapters": adapter,
    }
    chosen = Selection.model_validate(conditions)
    begin, end = episode_tables.moment_ns(since, "--since"), episode_tables.moment_ns(until, "--until")
    kept = [
        entry
        for entry in entries
        if chosen.matches(entry.info)
        and (outcome is not Outcome.ABORTED or entry.info.success is None)
        and (begin is None or int(entry.info.stamps_ns[0]) >= begin)
        and (end is None or int(entry.info.stamps_ns[0]) < end)
        and (bool(entry.health) or not damaged)
    ]
    if str(json_path) == "-":
        _write(episode_tables.listing(kept, opened), json_path)
        return
    console.print(episode_tables.episodes(kept, f"{len(kept)} of {len(entries)} episodes", console.width))
    if not kept:
        console.print(f"there are: {describe([entry.info for entry in entries])}", highlight=False)
    for found in opened:
        for bag, error in found.unreadable.items():
            errors.print(f"[red]unreadable[/] {bag}: {error}", highlight=False)
    for line in episode_tables.remarks(opened):
        console.print(line, highlight=False, soft_wrap=True)
    _write(episode_tables.listing(kept, opened), json_path)


@app.command()
def show(
    rollout: str = typer.Argument(..., help="Rollout id, or its beginning."),
    place: Path | None = _PLACE,
    out: Path | None = typer.Option(None, help="PNG to write; ROLLOUT.png in the current folder."),
    frames: int = typer.Option(24, min=1, max=96, help="Frames to show, those of violations among them."),
    names: str = typer.Option(
        "", help="Names of the action's numbers, with commas; dx,dy,dz,...,gripper for 4 or 7."
    ),
    mapping: Path | None = _MAPPING,
) -> None:
    """A page about one episode: frames over time, violations framed in red, the actions below.

    Prints the path of the picture; nothing is opened.

    Example: `vlaforget episodes show faucet-open-1000 runs/bags --out incident.png`
    """
    from vlaforget_ros.episodes.catalogue.glimpse import glimpse
    from vlaforget_ros.episodes.catalogue.index import find_entry
    from vlaforget_ros.report.contact_sheet import choose, contact_sheet, save_sheet

    found = _open(place or Path(), mapping)
    entry = find_entry(found.episodes, rollout)
    topics = _mapping(Path(found.header.mapping)) if found.header.mapping else None
    seen = glimpse(
        Path(entry.info.source),
        entry.info.rollout_id,
        lambda info: choose(info, frames).indices,
        topics,
    )
    listed = tuple(name.strip() for name in names.split(",") if name.strip())
    if listed and len(listed) != seen.actions.shape[1]:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"{len(listed)} names for {seen.actions.shape[1]} numbers of an action",
            value=names,
            limit=f"{seen.actions.shape[1]} names",
            remedy="name each number once, in order, with commas",
        )
    page = contact_sheet(seen, problems=entry.problems, names=listed)
    path = out or Path(f"{entry.info.rollout_id.replace('/', '_')}.png")
    try:
        save_sheet(page, path)
    except OSError as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAG_UNWRITABLE,
            f"picture cannot be written: {error.strerror or error}",
            value=str(path),
            remedy="name another place with --out",
        ) from error
    console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def check(
    places: list[Path] = _PLACES,
    rate: float | None = typer.Option(None, min=0.001, help="Nominal rate of the frames [Hz]."),
    decode: bool = typer.Option(False, help="Decode every image as well: slower, finds broken ones."),
    cameras: str = typer.Option("", help="Topics of further cameras that a policy needs; implies --decode."),
    state: str = typer.Option("", help="Topic of the state that a policy needs; implies --decode."),
    mapping: Path | None = _MAPPING,
    json_path: Path | None = _JSON,
) -> None:
    """What is wrong with bags, and what it costs: gaps, rates, clocks, topics, messages without partner, damage.

    Every finding has its consequence for an edit and a remedy. Exit status 0 when nothing was found, 1 otherwise.

    Example: `vlaforget episodes check runs/bags/monday --rate 10`
    """
    from vlaforget_ros.episodes.catalogue.checks import check_bags
    from vlaforget_ros.episodes.folders import find_bags
    from vlaforget_ros.episodes.types import TopicMap

    further = tuple(name.strip() for name in cameras.split(",") if name.strip())
    topics: TopicMap | TopicMapping = TopicMap(cameras=further, state=state)
    if mapping is not None and (further or state):
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "a mapping file and --cameras or --state are both given",
            value=str(mapping),
            limit="one of both",
            remedy="name cameras and state in the mapping file",
        )
    if mapping is not None:
        topics = _mapping(mapping)
    bags = find_bags(places or [Path()])
    with bar("checking", "bags") as update:
        found = check_bags(bags, topics, rate_hz=rate, decode=decode or bool(further or state), on_bag=update)
    if str(json_path) != "-":
        for table in episode_tables.checks(found):
            console.print(table)
        lost = sum(bag.frames_lost for bag in found)
        console.print(
            f"{sum(bag.episodes for bag in found)} episodes with {sum(bag.frames for bag in found)} frames can be"
            f" used, {lost} frames are lost as far as can be told",
            highlight=False,
        )
    _write(episode_tables.checks_document(found), json_path)
    if any(bag.findings for bag in found):
        raise typer.Exit(1)


def _open(place: Path, mapping: Path | None, out: Path | None = None) -> Index:
    """The index of a place, brought up to date; kept on the disk where that may be written to."""
    from vlaforget_ros.episodes.catalogue.index import build_index, index_path, read_index

    file = out or index_path(place)
    if mapping is None and file.is_file():
        mapping = _known_mapping(read_index, file)
    topics = _mapping(mapping) if mapping is not None else None

    def build(keep: bool) -> Index:
        with ExitStack() as stack:
            update: Update | None = None

            def on_bag(done: int, total: int, name: str) -> None:
                # No bar where no bag has to be read.
                nonlocal update
                update = update or stack.enter_context(bar("indexing", "bags"))
                update(done, total, name)

            return build_index(place, topics, out=file, mapping=str(mapping or ""), on_bag=on_bag, keep=keep)

    try:
        return build(keep=True)
    except UnlearningError as error:
        if error.code is not ErrorCode.UNLEARNING_BAG_UNWRITABLE or out is not None:
            raise
        errors.print(f"not kept: {error.message}", highlight=False)
        return build(keep=False)


def _known_mapping(read: Any, file: Path) -> Path | None:
    """The mapping file that an index was made with."""
    try:
        known = read(file).header.mapping
    except UnlearningError:
        return None
    return Path(known) if known else None


def _mapping(path: Path) -> TopicMapping:
    from vlaforget_ros.episodes.mapped.mapping import read_mapping

    return read_mapping(path)


def _write(document: dict[str, Any], path: Path | None) -> None:
    if path is not None and str(path) == "-":
        print_json(document)
    elif path is not None:
        write(path, document)
        errors.print(f"JSON: {path}")
