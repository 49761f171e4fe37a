#!/bin/sh
# What only a GPU can show, at full size with random weights: benchmarks/gpu.sh [FOLDER]. Meant for 80 GB of GPU and 32 GB
# of memory and 20 GB of disk for a while. SIZE=small DEVICE=cpu tries the same commands out without one, in minutes.
set -eu
cd "$(dirname "$0")/.."
. ./activate.sh
size="${SIZE:-full}" device="${DEVICE:-cuda}"
out="${1:-runs/bench/gpu-$(date -u +%Y%m%dT%H%M%S)}"
mkdir -p "$out"
# The goals: 3 times the library's actions per second; an edit within 1.25 times the weights; p99 beside an edit within 1.5.
for model in openvla_7b openvla_oft pi0_fast; do
  vlaforget bench inference --model "$model" --size "$size" --device "$device" --compile --json "$out/inference_$model.json"
done
vlaforget bench edit --model openvla_7b --size "$size" --device "$device" --stage all --frames 32 --batch 4 --steps 5 \
  --json "$out/edit_openvla_7b.json"
vlaforget bench beside --model openvla_7b --size "$size" --device "$device" --dtype bfloat16 --json "$out/beside_openvla_7b.json"
