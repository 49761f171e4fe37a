"""Loads a data set with LeRobot itself, every frame of it: python load.py FOLDER

Needs LeRobot, which the tests do not. Shows that what `vlaforget episodes export` wrote is what LeRobot reads.
"""

import sys
from pathlib import Path


def main(folder: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    found = LeRobotDataset("local/loaded", root=Path(folder), video_backend="pyav")
    for index in range(len(found)):
        item = found[index]
        if not item["task"] or any(item[camera].ndim != 3 for camera in found.meta.camera_keys):
            raise SystemExit(f"frame {index} is not whole")
    print(f"{found.num_episodes} episodes, {len(found)} frames, cameras {', '.join(found.meta.camera_keys)}")


if __name__ == "__main__":
    main(sys.argv[1])
