# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # some variables are those of the script that sources this
# What the launchers share; they source this file.

exec 3>&1 # so that a dry run is read even where a command's output goes elsewhere

# Reads what was typed: --dry_run, --NAME VALUE for each name in $options, which become variables,
# CONFIG[:ARG], and --config.x=y into the array `overrides`. --help prints the script's first comment.
read_options() {
  dry_run="" overrides=()
  while [ $# -gt 0 ]; do
    case $1 in
    --dry_run) dry_run=yes ;;
    -h | --help)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    --config.*=*) overrides+=("$1") ;;
    -*)
      [[ " $options " == *" ${1#--} "* ]] || refuse "$1: not an option; there are dry_run $options, and --config.x=y"
      [ $# -gt 1 ] || refuse "$1: needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) config=$1 ;;
    esac
    shift
  done
}

# Refuses to go on where one of the named options was not given.
need() {
  local name
  for name in "$@"; do
    [ -n "${!name}" ] || refuse "${name/#config/CONFIG}: needed; --help tells more"
  done
}

refuse() {
  echo "${0##*/}: $1" >&2
  exit 2
}

# Runs a command; in a dry run, prints it as it could be typed.
run() {
  if [ -z "${dry_run:-}" ]; then
    "$@"
    return
  fi
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line# }" >&3
}

# "gpu" on a machine with NVIDIA's driver, else nothing: the extra that local devices need.
local_extra() {
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then echo gpu; fi
}

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
      run uv venv --quiet --python ">=3.11,<3.13" .venv
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
      run "$python" -m venv .venv || {
        rm -rf .venv
        return 2
      }
    fi
  fi
  stamp=.venv/installed-${1:-plain}-$(cat setup.cfg pyproject.toml | cksum | cut -d ' ' -f 1)
  [ -e "$stamp" ] && return
  [ -n "${dry_run:-}" ] || echo "installing jax_itm${extras} into .venv (minutes, once)"
  if command -v uv >/dev/null 2>&1; then
    run uv pip install --quiet --python .venv/bin/python --editable ".$extras"
  else
    run .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras"
  fi
  run touch "$stamp"
}
