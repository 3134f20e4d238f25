#!/usr/bin/env bash
# From a fresh machine to a retrieval table: environment, data, training, evaluation, report.
#
#   ./launch/local.sh [CONFIG[:ARG]] [--config.x=y ..]        default: configs/dias_scenes.py
#   ./launch/local.sh --devices 8                             on virtual CPU devices
#   ./launch/local.sh --workdir runs/second --config.seed=1   another run (default: runs/ and the name of CONFIG)
#   ./launch/local.sh --dry_run                               print the commands without running them
#   ./launch/local.sh configs/own.py --config.data.source=DIR   your own pictures with captions
#   SPLIT=dev ./launch/local.sh ..                            evaluate another split than test (or, without one, val)
#
# Uses all local GPUs if there are any. A second call reuses the environment and resumes the run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

config=configs/dias_scenes.py devices="" workdir="" options="devices workdir"
read_options "$@"
run=${workdir:-runs/$(run_name "$config")}
[ -z "$workdir" ] || overrides=("--config.name=$(basename "$workdir")" "${overrides[@]}") # in tables and figures

extra=$(local_extra)
if [ -n "$devices" ]; then
  need_number devices
  extra=""
  run export JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$devices"
fi
make_env "$extra"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
jax_itm() { run .venv/bin/python -m jax_itm "$@"; }

jax_itm prepare --config "$config" "${overrides[@]}"
jax_itm train --config "$config" --workdir "$run" "${overrides[@]}"
jax_itm evaluate --workdir "$run" ${SPLIT:+--split "$SPLIT"} --bag_of_words --out "$run/result.json" >/dev/null
[ -n "$dry_run" ] || echo
jax_itm report "$run" --out "$run/report.png"
[ -n "$dry_run" ] || cat <<EOF

run and checkpoints   $run
result                $run/result.json
figure                $run/report.png
logs                  $run/metrics.jsonl, $run/tensorboard
in Python             import jax_itm; matcher = jax_itm.load("$run")
EOF
