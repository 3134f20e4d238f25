# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # some variables are those of the script that sources this
# What the launchers share; they source this file.

exec 3>&1 # so that a dry run is read even where a command's output goes elsewhere

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: needs bash 4.4 or newer, this is $BASH_VERSION (macOS: brew install bash)" >&2
  exit 2
fi

# Reads what was typed: --dry_run, --NAME VALUE for each name in $options, which become variables,
# CONFIG[:ARG], and --config.x=y into the array `overrides`. --help prints what the script's first comment
# says. To be called in the project's folder.
read_options() {
  dry_run="" overrides=()
  local named=""
  while [ $# -gt 0 ]; do
    case $1 in
    --dry_run) dry_run=yes ;;
    -h | --help)
      sed -n '2,/^[^#]/{/^#SBATCH/d;s/^# \{0,1\}//p;}' "launch/${0##*/}"
      exit 0
      ;;
    --config.*=*) overrides+=("$1") ;;
    -*)
      [[ " $options " == *" ${1#--} "* ]] || refuse "$1: not an option; there are dry_run $options, and --config.x=y"
      [ $# -gt 1 ] || refuse "$1: needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *)
      [ -z "$named" ] || refuse "$1: one CONFIG is enough, and $named is one"
      config=$1 named=$1
      ;;
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

# Refuses where one of the named options is no whole number.
whole() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^(0|[1-9][0-9]{0,8})$ ]] || refuse "--$name ${!name}: must be a whole number"
  done
}

# Refuses where one of the named programs is not there; a dry run needs none.
programs() {
  local name
  for name in "$@"; do
    [ -n "$dry_run" ] || command -v "$name" >/dev/null || refuse "$name: not found, and needed here"
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

# The name of a run of CONFIG[:ARG]: its file's name, with the argument, which may be a path, where there is one.
run_name() {
  local file=${1%%:*}
  echo "$(basename "$file" .py)${1#"$file"}" | sed 's/[^A-Za-z0-9_.-]/_/g'
}

# Makes .venv with this package in it, anew only where its description changed. One argument: the
# extras to install, such as "test", or nothing.
make_env() {
  local extras=${1:+[$1]} python="" candidate stamp
  if [ ! -x .venv/bin/python ]; then
    [ ! -L .venv/bin/python ] || run rm -rf .venv # of a Python that is gone; its stamps would be believed
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
  # "|| return": where a caller goes on after errors, as on a TPU's workers, half an installation is no whole one.
  if command -v uv >/dev/null 2>&1; then
    run uv pip install --quiet --python .venv/bin/python --editable ".$extras" || return
  else
    run .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extras" || return
  fi
  run touch "$stamp"
}
