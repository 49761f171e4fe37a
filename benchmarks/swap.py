#!/usr/bin/env python
"""Swap latency of a policy, with PEFT in comparison: a table, and JSON with ``--json FILE``.

Without ``--base`` a randomly initialised ``tiny`` is measured: times do not depend on what was learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from vlaforget_ros.bench import swap
from vlaforget_ros.cli.output import show
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.tiny import new_tiny

INSTRUCTION = "open the faucet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="checkpoint folder of a policy; default: a random tiny")
    parser.add_argument("--instruction", default=INSTRUCTION, help="an instruction that the policy knows")
    parser.add_argument("--repeats", type=int, default=200, help="timed swaps and inferences of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", type=Path, help="where to write the result document")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.base:
        policy = VlaPolicy.load(options.base)
    else:
        model, tokenizer = new_tiny([options.instruction], options.seed)
        policy = VlaPolicy(model.eval(), tokenizer, "0" * 64)
    document = swap.measure(policy, options.instruction, options.repeats, options.seed)
    show(document, options.json, "swapping adapters of a serving policy")


if __name__ == "__main__":
    main()
