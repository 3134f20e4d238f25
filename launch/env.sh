# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # some variables are those of the script that sources this
# Functions that the launchers share; they source this file.

exec 3>&1 # so that a dry run is visible even where a command's output is redirected

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: needs bash 4.4 or newer, this is $BASH_VERSION (macOS: brew install bash)" >&2
  exit 2
fi

# Parses the arguments: --dry_run, --NAME VALUE for each name in $options (each becomes a variable), --NAME for
# each name in $flags (it becomes "yes"), CONFIG[:ARG], and --config.x=y (collected in the array `overrides`). --help prints the first comment of the
# script. Must be called in the project's directory.
read_options() {
  dry_run="" overrides=()
  local first=""
  while [ $# -gt 0 ]; do
    case $1 in
    --dry_run) dry_run=yes ;;
    -h | --help)
      sed -n '2,/^[^#]/{/^#SBATCH/d;s/^# \{0,1\}//p;}' "launch/${0##*/}"
      exit 0
      ;;
    --config.*=*) overrides+=("$1") ;;
    --*) if [[ " ${flags:-} " == *" ${1#--} "* ]]; then
      printf -v "${1#--}" yes
      shift && continue
    fi ;;&
    -*)
      [[ " $options " == *" ${1#--} "* ]] || refuse "$1: not an option; the options are dry_run $options${flags:+ $flags}, and --config.x=y"
      [ $# -gt 1 ] || refuse "$1: needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *)
      [ -z "$first" ] || refuse "$1: only one CONFIG is allowed, and $first is one"
      config=$1 first=$1
      ;;
    esac
    shift
  done
}

# Ends the script if one of the named options is missing.
need() {
  local name
  for name in "$@"; do
    [ -n "${!name}" ] || refuse "${name/#config/CONFIG}: required; see --help"
  done
}

# Ends the script if one of the named options is not a whole number.
need_number() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^(0|[1-9][0-9]{0,8})$ ]] || refuse "--$name ${!name}: must be a whole number"
  done
}

# Ends the script if the option NAME, whose value is put into a file, has other characters than it may have.
need_form() { # need_form NAME REGEX WHAT
  [[ ${!1} =~ ^($2)$ ]] || refuse "--$1 ${!1}: must be $3"
}

# Ends the script if one of the named programs is missing; a dry run needs none.
need_program() {
  local name
  for name in "$@"; do
    [ -n "$dry_run" ] || command -v "$name" >/dev/null || refuse "$name: not found, but required"
  done
}

refuse() {
  echo "${0##*/}: $1" >&2
  exit 2
}

# Runs a command; in a dry run, prints it in a form that could be typed.
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

# The extra that the local devices need: "gpu" on a machine with NVIDIA's driver, otherwise none.
local_extra() {
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then echo gpu; fi
}

# The name of a run of CONFIG[:ARG]: the file's name and the argument, if any, which may be a path.
run_name() {
  local file=${1%%:*}
  echo "$(basename "$file" .py)${1#"$file"}" | sed 's/[^A-Za-z0-9_.-]/_/g'
}

# Creates .venv with this package in it; installs again only if the package's metadata changed. One argument:
# the extras to install, such as "test", or nothing.
make_env() {
  local extras=${1:+[$1]} python="" candidate stamp
  if [ ! -x .venv/bin/python ]; then
    [ ! -L .venv/bin/python ] || run rm -rf .venv # its Python was removed; its stamps must not be trusted
    if command -v uv >/dev/null 2>&1; then
      run uv venv --quiet --python ">=3.11,<3.13" .venv || return
    else
      for candidate in python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info)' 2>/dev/null; then
          python=$candidate
          break
        fi
      done
      [ -n "$python" ] || {
        echo "jax_itm needs Python 3.11 or newer; python3.12, python3.11 and python3 are not" >&2
        return 2
      }
      # An incomplete one would be taken for complete next time (Debian without python3-venv leaves one).
      run "$python" -m venv .venv || {
        rm -rf .venv
        return 2
      }
    fi
  fi
  stamp=.venv/installed-${1:-plain}-$(cat setup.cfg pyproject.toml launch/constraints*.txt | cksum | cut -d ' ' -f 1)
  [ -e "$stamp" ] && return
  local exact=(--constraint launch/constraints.txt --constraint launch/constraints-accelerators.txt)
  [ -n "${dry_run:-}" ] || echo "installing jax_itm${extras} into .venv (minutes, once)"
  # "|| return": where `set -e` is off, as in an if, a failed installation must not be stamped as complete.
  if command -v uv >/dev/null 2>&1; then
    run uv pip install --quiet --python .venv/bin/python "${exact[@]}" --editable ".$extras" || return
  else
    run .venv/bin/python -m pip install --quiet --disable-pip-version-check "${exact[@]}" --editable ".$extras" || return
  fi
  run touch "$stamp"
}
