#!/usr/bin/env bash
# IAIS on scenes: the same matcher without an alignment, with the singular and with the distributed one,
# over several seeds, ending in one table with ISD and a figure of ISD against rSum.
#
#   ./launch/iais.sh                                   an hour and more on 2 CPU cores
#   SEEDS="0 1 2" ROWS="none singular" ./launch/iais.sh
#
# Each seed's rows start from one run, whose negatives are drawn at random (configs/iais_scenes.py says
# why). Data must be prepared (./launch/local.sh does). Finished runs are kept.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
config=configs/iais_scenes.py
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}

runs=()
for row in ${ROWS:-none singular distributed}; do
  for seed in ${SEEDS:-0 1 2}; do
    start=runs/iais/start-$seed
    run=runs/iais/$row-$seed
    runs+=("$run")
    [ -e "$run/result.json" ] && continue
    # A start that is complete ends at once.
    "$python" -m jax_itm train --config "$config:part=start" --workdir "$start" --config.seed="$seed" "$@"
    "$python" -m jax_itm train --config "$config:start=$start,alignment=$row" --workdir "$run" \
      --config.seed="$seed" --config.name="iais_scenes-$row" "$@"
    "$python" -m jax_itm evaluate --workdir "$run" --split "${SPLIT:-test}" --isd \
      --protocol "${PROTOCOL:-folds}" --out "$run/result.json"
  done
done
"$python" -m jax_itm report "${runs[@]}" --out runs/iais/scenes.png
