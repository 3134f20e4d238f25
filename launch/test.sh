#!/usr/bin/env bash
# From a fresh machine to a green test suite: environment, lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

make_env test
bin=$PWD/.venv/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/pyright" --pythonpath "$bin/python"
"$bin/python" -m pytest --numprocesses 2 --dist loadfile "$@"
