# shellcheck shell=bash
# What the launchers share; they source this file.

# The name of a run of CONFIG[:ARG]: its file's name, with the argument where there is one.
run_name() {
  basename "$1" | sed 's/\.py//; s/[^A-Za-z0-9_.-]/_/g'
}

# Makes .venv with this package in it, anew only where its description changed. One argument: the
# extras to install, such as "test", or nothing.
make_env() {
  local extras=${1:+[$1]} python="" candidate stamp
  if [ ! -x .venv/bin/python ]; then
    if command -v uv >/dev/null 2>&1; then
      uv venv --quiet --python ">=3.11,<3.13" .venv
    else
      for candidate in python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info)' 2>/dev/null; then
          python=$candidate
          break
        fi
      done
      [ -n "$python" ] || {
        echo "jax_itm needs Python 3.11 or newer; none of python3.12, python3.11, python3 is" >&2
        return 2
      }
      # Half of one would pass for a whole one the next time (Debian without python3-venv leaves half).
      "$python" -m venv .venv || {
        rm -rf .venv
        return 2
      }
    fi
  fi
  stamp=.venv/installed-${1:-plain}-$(cat setup.cfg pyproject.toml | cksum | cut -d ' ' -f 1)
  [ -e "$stamp" ] && return
  echo "installing jax_itm${extras} into .venv (minutes, once)"
  if command -v uv >/dev/null 2>&1; then
    uv pip install --quiet --python .venv/bin/python --editable ".$extras"
  else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras"
  fi
  touch "$stamp"
}
