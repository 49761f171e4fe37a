"""Writes a tiny data set with LeRobot itself: python make.py FOLDER image|video CAMERA...

Needs LeRobot, which the tests do not: they read what this wrote.
"""

import sys
from pathlib import Path

import numpy as np

EPISODES = [(6, "push the cube"), (4, "lift the cup"), (5, "push the cube")]


def picture(episode: int, frame: int, camera: int) -> np.ndarray:
    """(48, 64, 3) uint8: a gradient that tells the episode, a patch that moves with the frame and tells the camera."""
    y, x = np.mgrid[0:48, 0:64]
    image = np.stack([x * 3, y * 4, np.full_like(x, 40 * episode)], -1).astype(np.uint8)
    image[8:24, 4 + 4 * frame : 20 + 4 * frame] = (250, 20, 60 * camera)
    return image


def action(episode: int, frame: int) -> np.ndarray:
    return np.array([0.1 * frame, -0.1 * episode, 0.25, 1.0], np.float32)


def main(root: str, kind: str, *cameras: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [f"observation.images.{camera}" for camera in cameras]
    picture_of = {"dtype": kind, "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    features = {
        **{name: dict(picture_of) for name in names},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (4,), "names": ["dx", "dy", "dz", "grip"]},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    made = LeRobotDataset.create(
        "local/made", fps=10, features=features, root=Path(root), use_videos=kind == "video"
    )
    for episode, (length, task) in enumerate(EPISODES):
        for frame in range(length):
            values = {
                **{name: picture(episode, frame, camera) for camera, name in enumerate(names)},
                "observation.state": np.array([episode, frame, 0.5], np.float32),
                "action": action(episode, frame),
                "next.success": np.array([frame == length - 1 and episode != 1]),
            }
            if hasattr(made, "finalize"):
                made.add_frame({**values, "task": task})
            else:  # up to 0.3
                made.add_frame(values, task)
        made.save_episode()
    if hasattr(made, "finalize"):
        made.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
