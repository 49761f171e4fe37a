"""Every tensor of an adapter made wrong in turn: nothing of it is loaded, exported or imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_parts import WEIGHTS, archive, code_of_refusal, members_of, rehashed, state
from corruption import CORRUPTIONS, corrupt, keys

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.adapters.exchange import export_adapter, import_adapter

MakeWeights = Callable[..., LoraWeights]
# Codes for A and for B under a forged manifest, which lists the wrong file rightly. There a flipped bit or a wider
# layer is another adapter under another digest (0): a signature tells it, or the model (test/policy).
FORGED = {
    "shape": (104, 0),
    "dtype": (104, 104),
    "NaN": (105, 105),
    "missing": (104, 104),
    "extra": (104, 104),
}


@pytest.fixture
def digest(store: AdapterStore, make_weights: MakeWeights) -> str:
    return store.add_weights(make_weights(), {"name": "fix", "method": "npo"}).digest


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_every_tensor_corrupted_on_disk_or_on_the_way_is_refused(
    how: str, tmp_path: Path, store: AdapterStore, digest: str
) -> None:
    members, robot = members_of(store, digest), AdapterStore(tmp_path / "robot")
    file = store.path(digest) / WEIGHTS
    for key in keys(members[WEIGHTS]):
        wrong = corrupt(members[WEIGHTS], how, key)
        assert wrong != members[WEIGHTS]
        (tmp_path / "sent.tar").write_bytes(archive({**members, WEIGHTS: wrong}.items()))
        file.write_bytes(wrong)

        assert code_of_refusal(lambda: store.load(digest)) == 103, key
        assert code_of_refusal(lambda: export_adapter(store, digest, str(tmp_path / "out.tar"))) == 103
        assert code_of_refusal(lambda: import_adapter(robot, str(tmp_path / "sent.tar"))) == 103
    assert not robot.root.exists()
    file.write_bytes(members[WEIGHTS])
    assert store.load(digest).digest == digest


@pytest.mark.parametrize("how", FORGED)
def test_every_corrupted_tensor_under_a_forged_manifest_is_refused(
    how: str, tmp_path: Path, store: AdapterStore, digest: str
) -> None:
    members, robot = members_of(store, digest), AdapterStore(tmp_path / "robot")
    before, accepted = state(store.root), 0
    for key in keys(members[WEIGHTS]):
        forged = rehashed({**members, WEIGHTS: corrupt(members[WEIGHTS], how, key)})
        (tmp_path / "sent.tar").write_bytes(archive(forged.items()))
        expected = FORGED[how][".lora_B." in key]

        assert code_of_refusal(lambda: import_adapter(robot, str(tmp_path / "sent.tar"))) == expected, key
        accepted += expected == 0
        assert len(robot.digests()) == accepted
    assert digest not in robot.digests()
    assert state(store.root) == before
