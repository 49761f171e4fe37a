#!/bin/sh
# All benchmarks but `bench unlearning`, which is many hours, `bench canary-live` and `bench stop`, into one folder:
# benchmarks/all.sh [FOLDER]. An hour or more, 10 GB of disk for a while, on two cores.
set -eu
cd "$(dirname "$0")/.."
. ./activate.sh
out="${1:-runs/bench/$(date -u +%Y%m%dT%H%M%S)}"
mkdir -p "$out"
vlaforget bench edit --json "$out/edit.json"
vlaforget bench edit --model openvla_7b --frames 32 --steps 5 --json "$out/edit_openvla_small.json"
vlaforget bench edit --model openvla_oft --frames 32 --steps 5 --json "$out/edit_openvla_oft_small.json"
vlaforget bench edit --model pi0_fast --frames 32 --steps 5 --json "$out/edit_pi0_fast_small.json"
vlaforget bench beside --json "$out/beside.json"
vlaforget bench inference --compile --json "$out/inference.json"
vlaforget bench inference --model openvla_oft --compile --json "$out/inference_openvla_oft.json"
vlaforget bench inference --model pi0_fast --compile --json "$out/inference_pi0_fast.json"
vlaforget bench sizing --json "$out/sizing.json"
vlaforget bench swap --json "$out/swap.json"
vlaforget bench arms --json "$out/arms.json"
vlaforget bench canary --json "$out/canary.json"
vlaforget bench ticks --json "$out/ticks.json"
vlaforget bench monitor --json "$out/monitor.json"
vlaforget bench bags --json "$out/bags.json"
vlaforget bench base --json "$out/base.json"
vlaforget bench base --base models/tiny-never-saw --json "$out/never_saw.json"
vlaforget bench scenarios --json "$out/scenarios.json" --out "$out/scenarios"
for scenario in trigger binding prior; do
  vlaforget demo --scenario "$scenario" --out "$out/demo-$scenario"
done
