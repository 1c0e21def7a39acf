#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, in some eight minutes and without a network.
#
#   benchmarks/gpu_check.sh DATA OUT [cuda]      DATA: the HAR photographs; OUT: folder of check.log and check.json
#
# On a machine without a network, what it needs can be carried there: see benchmarks/carry.py. With "cpu" it runs every
# step on a CPU to its end, for which DATA should be small. The variable STEPS chooses some of them.
set -uo pipefail
data=$(realpath "$1") out=$(realpath -m "$2") device=${3:-cuda}
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out"
exec > >(tee "$out/check.log") 2>&1
places=(--cache "$scratch/cache" --results "$scratch/results" --device "$device")
[ "$device" = cpu ] && rounds=1 || rounds=2

step() { # seconds allowed, name, command: its time goes into the log, its failure does not stop the others
  local begin=$(date +%s.%N)
  echo "== $2"
  timeout "$1" "${@:3}" 2>&1 | tr '\r' '\n' | grep -v 'images/s\]'
  python3 -c "import sys; print('== %s: exit %s, %.1f s' % (sys.argv[1], sys.argv[2], float(sys.argv[4]) - float(sys.argv[3])))" \
    "$2" "${PIPESTATUS[0]}" "$begin" "$(date +%s.%N)"
}

wants() { [[ " ${STEPS:-train predict predict-tta finetune finetune-predict benchmark tests} " == *" $1 "* ]]; }

wants train && step 50 train python3 train.py --data "$data" --run default "${places[@]}"
wants predict && step 40 predict python3 predict5.py --run default "${places[@]}"
wants predict-tta && step 40 predict-tta python3 predict5.py --run default --tta "${places[@]}"
wants finetune && step 160 finetune \
  python3 train.py --data "$data" --run finetune --recipe finetune ${FINETUNE_OPTIONS:-} "${places[@]}"
wants finetune-predict && step 40 finetune-predict python3 predict5.py --run finetune --tta "${places[@]}"
wants benchmark && step "${BENCHMARK_SECONDS:-110}" benchmark python3 -m benchmarks.speed --data "$data" \
  --device "$device" --rounds "$rounds" ${BENCHMARK_OPTIONS:-} --out "$out/benchmark_gpu.json"
wants tests && step 60 tests \
  python3 -m pytest -q -p no:cacheprovider -k cuda tests/test_cuda.py tests/test_decode.py tests/test_layers.py

python3 - "$scratch/results" "$out" <<'PYTHON'
import json
import re
import sys
from pathlib import Path

results, out = map(Path, sys.argv[1:])
log = (out / "check.log").read_text(encoding="utf-8", errors="replace")
steps = {name: {"exit": int(code), "seconds": float(took)} for name, code, took in re.findall(r"== (\S+): exit (\d+), (\S+) s", log)}
files = sorted([*results.glob("*/best.json"), *results.glob("*/test*/metrics.json"), *results.glob("*/tta.json")])
report = {"steps": steps, "runs": {str(file.relative_to(results)): json.loads(file.read_text()) for file in files}}
report["epochs"] = {
    file.parent.name: [json.loads(line) for line in file.read_text().splitlines()] for file in results.glob("*/metrics.jsonl")
}
(out / "check.json").write_text(json.dumps(report, indent=1))
print(json.dumps(steps))
PYTHON
