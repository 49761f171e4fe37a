"""``vlaforget request``: from an incident in the bags to a request file, and what a request file chooses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlaforget_ros.cli.output import bar, console, errors
from vlaforget_ros.errors import UnlearningError

if TYPE_CHECKING:
    from vlaforget_ros.episodes.types import ScanReport
    from vlaforget_ros.unlearning.proposal import Answers

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Requests to unlearn: choose what to forget and what to keep, look at it, check it.",
)
_FORGET, _KEEP, _FIELDS = "What to forget", "What to keep", "The edit"


@app.callback()
def _root() -> None:
    pass


@app.command()
def new(
    bags: list[Path] = typer.Option(
        [], help="Folder with recordings, searched for bags; a bag; or a .mcap or .db3 file. May be repeated."
    ),
    out: Path | None = typer.Option(None, help="The request file; NAME.yaml when not given."),
    force: bool = typer.Option(False, "--force", help="Replace the file if it is there."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Ask nothing; what is not given takes its default."),
    ask: bool | None = typer.Option(
        None, "--ask/--no-ask", help="Ask for what is not given; by default in a terminal only."
    ),
    forget_rule: list[str] = typer.Option(
        [], help="Violated rule, or pattern such as `keep_out/*`. May be repeated.", rich_help_panel=_FORGET
    ),
    flagged: bool = typer.Option(
        False, "--flagged", help="What an operator flagged.", rich_help_panel=_FORGET
    ),
    before: float | None = typer.Option(
        None,
        min=0.0,
        help="Keep frames from this long before a violation [s]; default 3.",
        rich_help_panel=_FORGET,
    ),
    after: float | None = typer.Option(
        None, min=0.0, help="Keep frames up to this long after it [s]; default 1.", rich_help_panel=_FORGET
    ),
    whole: bool = typer.Option(
        False, "--whole", help="Whole episodes instead of a window.", rich_help_panel=_FORGET
    ),
    forget_instruction: list[str] = typer.Option(
        [], help="Instruction, or pattern.", rich_help_panel=_FORGET
    ),
    forget_object: list[str] = typer.Option(
        [], help="Thing that the instruction names: `mug` also finds `mugs`.", rich_help_panel=_FORGET
    ),
    forget_adapter: list[str] = typer.Option(
        [], help="Digest (8 digits or more) of the adapter that drove, or `base`.", rich_help_panel=_FORGET
    ),
    forget_outcome: str | None = typer.Option(None, help="success or failure.", rich_help_panel=_FORGET),
    forget_rollout: list[str] = typer.Option([], help="Rollout id, or pattern.", rich_help_panel=_FORGET),
    since: str | None = typer.Option(
        None,
        help="Episodes that begin then or later: ISO 8601 with zone, or seconds of ROS time.",
        rich_help_panel=_FORGET,
    ),
    until: str | None = typer.Option(None, help="Episodes that begin before that.", rich_help_panel=_FORGET),
    retain_outcome: str | None = typer.Option(
        None, help="success (default), failure or any.", rich_help_panel=_KEEP
    ),
    retain_instruction: list[str] = typer.Option([], help="Instruction, or pattern.", rich_help_panel=_KEEP),
    retain_object: list[str] = typer.Option([], help="Thing the instruction names.", rich_help_panel=_KEEP),
    retain_adapter: list[str] = typer.Option([], help="Digest, or `base`.", rich_help_panel=_KEEP),
    retain_rollout: list[str] = typer.Option([], help="Rollout id, or pattern.", rich_help_panel=_KEEP),
    boundary: str | None = typer.Option(
        None,
        help="auto (default): near neighbours of what is forgotten, as the base policy sees them; none; or an"
        " instruction.",
        rich_help_panel=_KEEP,
    ),
    boundary_count: int | None = typer.Option(
        None,
        min=1,
        help="Most neighbours; default: as many as forget episodes, 4 to 16.",
        rich_help_panel=_KEEP,
    ),
    counterfactual: list[str] = typer.Option(
        [],
        help="Where right behaviour comes from: auto (default), none, clean_successes, transplant,"
        " `neighbour:INSTRUCTION`. May be repeated.",
        rich_help_panel=_KEEP,
    ),
    base: Path | None = typer.Option(None, help="Folder of the base checkpoint.", rich_help_panel=_FIELDS),
    start_from: str = typer.Option(
        "",
        help="Adapter to start from instead of the base: its folder, or its alias, name or digest in the store.",
        rich_help_panel=_FIELDS,
    ),
    earlier: list[Path] = typer.Option(
        [],
        exists=True,
        help="With --start-from: request file, or folder of the finished edit, that it holds and that must not be"
        " undone. May be repeated.",
        rich_help_panel=_FIELDS,
    ),
    method: str | None = typer.Option(
        None, help="vla_forget (default), or another of `vlaforget methods`.", rich_help_panel=_FIELDS
    ),
    name: str | None = typer.Option(
        None, help="Of the adapter; from the rule by default.", rich_help_panel=_FIELDS
    ),
    reason: str | None = typer.Option(None, help="What happened, in a sentence.", rich_help_panel=_FIELDS),
    requester: str | None = typer.Option(None, help="Who asks.", rich_help_panel=_FIELDS),
    cameras: str = typer.Option("", help="Topics of further cameras, with commas.", rich_help_panel=_FIELDS),
    state: str = typer.Option("", help="Topic of the robot's state (JointState).", rich_help_panel=_FIELDS),
    mapping: Path | None = typer.Option(
        None,
        help="Mapping file, for bags with other topics: see `vlaforget episodes map`.",
        rich_help_panel=_FIELDS,
    ),
    seconds: float | None = typer.Option(
        None, help="Longest edit [s]; default 240.", rich_help_panel=_FIELDS
    ),
    device: str = typer.Option("cpu", help="cpu or cuda.", rich_help_panel=_FIELDS),
    seed: int = typer.Option(0, min=0, help="Of everything random.", rich_help_panel=_FIELDS),
    json_path: Path | None = typer.Option(
        None, "--json", help="Write sets, hashes and findings here as well."
    ),
) -> None:
    """Make a request file from recorded bags: choose, look at the sets, check them, write them down.

    In a terminal it asks for what the options leave open and offers what the bags hold. Nothing is written before the
    sets were shown. The file names the chosen rollouts and the SHA-256 of each bag; an edit refuses (300) bags or sets
    that have become others.

    Example: an arm went into the zone of a hand, the bags are in `runs/bags`:

        vlaforget request new --bags runs/bags --base models/tiny \\
            --forget-rule keep_out/hand_zone --before 3 --after 1 \\
            --reason "a sticker pulls the arm aside" --out sticker.yaml --yes

        vlaforget unlearn sticker.yaml
    """
    given = dict(locals())
    from vlaforget_ros.cli import request_answers, request_questions

    asking = sys.stdin.isatty() if ask is None else ask
    asking = asking and not yes
    if asking and not bags:
        given["bags"] = request_questions.ask_bags()
    found, report = _scan(given["bags"], cameras, state, mapping)
    if asking:
        given = request_questions.complete(given, report.episodes)
    answers = request_answers.answers_of(given, report.episodes)
    _finish(answers, found, report, given, asking)


@app.command()
def show(
    request: Path = typer.Argument(..., exists=True, dir_okay=False, help="Request file (YAML)."),
    json_path: Path | None = typer.Option(None, "--json", help="Write all of it here as well."),
) -> None:
    """What a request file chooses now: its sets, digests, and what is odd about them. Reads no image.

    Example: `vlaforget request show sticker.yaml`
    """
    _examine(request, images=False, json_path=json_path)


@app.command()
def check(
    request: Path = typer.Argument(..., exists=True, dir_okay=False, help="Request file (YAML)."),
    json_path: Path | None = typer.Option(None, "--json", help="Write all of it here as well."),
) -> None:
    """As `show`, and thorough: hashes the bags, reads the frames, looks for recordings under two names.

    Exit status 1 with error 300 where bags or sets are not those that the file names, as an edit would end. Warnings do
    not change the exit status.

    Example: `vlaforget request check sticker.yaml`
    """
    _examine(request, images=True, json_path=json_path)


def _scan(
    places: Sequence[Path], cameras: str, state: str, mapping: Path | None
) -> tuple[list[Path], ScanReport]:
    from vlaforget_ros.episodes.catalogue.known import scan_known
    from vlaforget_ros.episodes.folders import find_bags
    from vlaforget_ros.episodes.mapped.mapping import read_mapping
    from vlaforget_ros.episodes.types import TopicMap

    found = find_bags(places)
    further = tuple(name.strip() for name in cameras.split(",") if name.strip())
    topics = TopicMap(cameras=further, state=state) if mapping is None else read_mapping(mapping)
    with bar("scan", "bags") as update:

        def each() -> Iterator[Path]:
            for number, bag in enumerate(found, start=1):
                yield bag
                update(number, len(found), bag.name)

        report, known = scan_known(each(), places, topics)
    if known:
        console.print(f"{known} of {len(found)} bags as the index knows them", highlight=False)
    return found, report


def _finish(
    answers: Answers, bags: Sequence[Path], report: ScanReport, given: dict[str, Any], asking: bool
) -> None:
    """Draw up, show, ask once more, write."""
    from vlaforget_ros.cli.request_view import show_examined, write_document
    from vlaforget_ros.unlearning.proposal import draw_up
    from vlaforget_ros.unlearning.request_file import render, require_free, write_request
    from vlaforget_ros.unlearning.selected import Selected, hash_bags, hash_mapping

    out = given["out"] or Path(f"{answers.others['name']}.yaml")
    require_free(out, given["force"])
    with bar("request", "episodes", parts=True, remaining=False) as update:
        draft = draw_up(answers, bags, report, lambda what, done, all_: update(done, all_, what))
    show_examined(draft.examined, draft.neighbours, report)
    if asking and not typer.confirm(f"write {out}?", default=True):
        errors.print("nothing was written")
        raise typer.Exit(1)
    with bar("hashing", "MB") as update:
        hashes = hash_bags(bags, lambda done, all_: update(done // 10**6, max(1, all_ // 10**6)))
    selected = Selected(
        bags=hashes, mapping=hash_mapping(draft.request.mapping), **draft.examined.sets.sizes()
    )
    text = render(draft.values, selected, out.resolve().parent, draft.neighbours)
    made = write_request(text, out, given["force"])
    console.print(f"request {out}, digest {made.digest}", soft_wrap=True, highlight=False)
    console.print(f"carry it out with: vlaforget unlearn {out}", soft_wrap=True, highlight=False)
    write_document(given["json_path"], out, made, draft.examined, draft.neighbours, [])


def _examine(path: Path, images: bool, json_path: Path | None) -> None:
    from vlaforget_ros.cli.request_view import show_examined, write_document
    from vlaforget_ros.episodes.reader import scan_many
    from vlaforget_ros.unlearning.examine import examine
    from vlaforget_ros.unlearning.request import read_request
    from vlaforget_ros.unlearning.selected import bag_changes, require_none, set_changes

    request = read_request(path)
    changes: list[str] = []
    if images:
        with bar("hashing", "MB") as update:
            changes = bag_changes(request, lambda done, all_: update(done // 10**6, max(1, all_ // 10**6)))
        require_none([change for change in changes if change.endswith("is gone")])
    try:
        report = scan_many([Path(bag) for bag in request.bags], request.topics)
        with bar("looking at frames", "episodes") as update:
            examined = examine(request, report, images, update)
    except UnlearningError:
        # Bags that have become others may be of no use at all: what happened to them comes first.
        require_none(changes)
        raise
    if images:
        changes += set_changes(request, examined.sets.sizes())
    show_examined(examined, (), report)
    console.print(f"digest {request.digest}", highlight=False, soft_wrap=True)
    if request.selected is None:
        console.print("names no bags by their content: an edit takes what it finds", highlight=False)
    else:
        for bag, pinned in zip(request.bags, request.selected.bags, strict=True):
            console.print(
                f"bag {bag}: SHA-256 {pinned.sha256}, {pinned.size} bytes", highlight=False, soft_wrap=True
            )
    write_document(json_path, path, request, examined, (), changes)
    require_none(changes)
    if images and request.selected is not None:
        console.print("bags and sets are those that the request names", highlight=False)
