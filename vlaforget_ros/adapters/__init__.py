"""Adapters as files and values: what an edit leaves behind, and where it is kept.

``lora`` is the value (factors of each layer and every check on them), ``peft_format`` with
``safetensors_header`` reads and writes it as PEFT does, ``manifest`` names it by a digest that covers its
files and its origin, ``store`` keeps all of them on disk, through ``files`` alone, ``lineage`` says which of
them was made on top of which. ``signatures``, ``signing`` and ``keys`` are about who vouches for one,
``trust`` and ``trust_file`` about whom a robot believes; ``promotion`` and ``standing`` bring both to the
store. Nothing here knows a model, a thread or ROS.
"""

from vlaforget_ros.adapters.lora import LoraModule, LoraWeights
from vlaforget_ros.adapters.manifest import Manifest, Provenance
from vlaforget_ros.adapters.peft_format import read_peft, write_peft
from vlaforget_ros.adapters.store import AdapterStore

__all__ = [
    "AdapterStore",
    "LoraModule",
    "LoraWeights",
    "Manifest",
    "Provenance",
    "read_peft",
    "write_peft",
]
