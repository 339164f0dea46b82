# shellcheck shell=sh
# Sourced by scripts/dlrun and scripts/test, which set $here; sets $root. The slow part is in bootstrap.py.

root=$(dirname -- "${here:?}")

# A stamp says what the environment was made from: the clone's place, the Python behind it, pyproject.toml.
stamped() {
    [ -r "$root/.venv/stamp-$1" ] && [ "$(cat -- "$root/.venv/stamp-$1")" = "$wanted" ]
}

recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# $1 is "run", or "dev" for the development tools on top: a dev environment serves both.
prepare_environment() {
    if [ -x "$root/.venv/bin/python" ] && [ ! -e "$root/.venv/unfinished" ]; then
        wanted=$(printf '%s\n' "$root" && readlink -f -- "$root/.venv/bin/python" && cat -- "$root/pyproject.toml")
        if stamped dev || { [ "$1" = run ] && stamped run; }; then return; fi
    fi
    for python in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if recent "$python"; then found=$python; break; fi
        if [ -n "${PYTHON:-}" ]; then break; fi
    done
    if [ -z "${found:-}" ]; then
        echo "dlrun needs Python 3.11 or newer and ${PYTHON:-python3} is not: name one with PYTHON=/path/to/python3" >&2
        exit 2
    fi
    "$found" "$root/scripts/bootstrap.py" "$1"
}
