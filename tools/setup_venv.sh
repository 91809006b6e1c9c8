#!/bin/sh
# Makes an environment in the repository and installs soka_tf with what it needs.
#
#     sh tools/setup_venv.sh                      # for running
#     sh tools/setup_venv.sh requirements-dev.txt # and for testing
#     PYTHON=3.12 sh tools/setup_venv.sh          # with this Python; a command, too:
#     PYTHON=/path/to/python3.10 sh tools/setup_venv.sh
#     VENV=.venv-newest sh tools/setup_venv.sh    # in this folder
#
# The Python chooses TensorFlow, see requirements.txt. Without PYTHON the machine's
# python3 is taken where it fits, else the newest that is found. A Python counts only if
# it really makes an environment with pip: pyenv's shims may exist without a version
# behind them, and Debian's python3 may lack ensurepip. An environment that another one
# shall replace comes back where that fails; a folder that is none is never touched.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
old=$venv.old
log=$venv/install.log
pyenv=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}
versions="3.13 3.12 3.11 3.10 3.9"
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "error: $*" >&2
    exit 1
}

fits() { # does this command run, and is it a Python of the right version?
    "$@" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1 </dev/null
}

whole() { # is there an environment with a Python that fits and a pip that runs?
    fits "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

origin() { # the installation and version behind a Python, in an environment or not
    "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null </dev/null
}

is_version() { # is the environment's Python a 3.12, say?
    "$venv/bin/python" -V 2>/dev/null | grep -q "^Python $1\."
}

make_by() { # runs a command that makes the environment
    if [ -e "$venv" ]; then
        rm -rf "$old"
        mv "$venv" "$old"
    fi
    if "$@" >/dev/null 2>&1 </dev/null && whole; then
        [ ! -e "$old" ] || echo "$venv is replaced"
        rm -rf "$old"
        return
    fi
    rm -rf "$venv"
    [ ! -e "$old" ] || mv "$old" "$venv"
    return 1
}

make_with() {
    fits "$1" || return 1
    if whole && [ "$(origin "$1")" = "$(origin "$venv/bin/python")" ]; then
        return
    fi
    make_by "$1" -m venv "$venv"
}

make_with_version() { # 3.12, or 3.12.1: on the path, else pyenv's
    make_with "python$1" && return
    for python in "$pyenv/versions/$1"/bin/python "$pyenv/versions/$1".*/bin/python; do
        make_with "$python" && return
    done
    return 1
}

make_with_uv() { # 3.12, or a range
    command -v uv >/dev/null 2>&1 || return 1
    if whole && is_version "$1"; then return; fi
    echo "asking uv for Python $1 ..."
    make_by uv venv --quiet --python "$1" --seed "$venv"
}

make_named() { # PYTHON: a version, a command of that name or a path
    case $1 in
    3.9* | 3.1[0-3]*) named=$1 ;;
    python3.9 | python3.1[0-3]) named=${1#python} ;;
    *)
        make_with "$1"
        return
        ;;
    esac
    make_with_version "$named" || make_with_uv "$named"
}

make_any() {
    make_with python3 && return
    for version in $versions; do
        make_with_version "$version" && return
    done
    make_with python || make_with_uv ">=3.9,<3.14"
}

has_tensorflow() {
    for folder in "$venv"/lib*/python3*/site-packages/tensorflow; do
        [ ! -d "$folder" ] || return 0
    done
    return 1
}

# Runs a long quiet command, with a sign of life every 10 seconds.
patiently() {
    "$@" >>"$log" 2>&1 </dev/null &
    job=$!
    trap 'kill $job 2>/dev/null; exit 130' INT TERM
    seconds=0
    while kill -0 $job 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        [ $((seconds % 10)) -ne 0 ] || echo "  ... ${seconds} s"
    done
    trap - INT TERM
    wait $job || {
        tail -n 15 "$log" >&2
        fail "the installation failed; the whole log is in $log"
    }
}

for folder in "$venv" "$old"; do
    [ ! -e "$folder" ] || [ -f "$folder/pyvenv.cfg" ] ||
        fail "$folder exists and is no environment: it is not replaced." \
            "Name another one: VENV=.venv-other"
done
# Left so by a kill.
[ -e "$venv" ] || [ ! -e "$old" ] || mv "$old" "$venv"

if [ -n "${PYTHON:-}" ]; then
    make_named "$PYTHON" ||
        fail "PYTHON=$PYTHON was not found, or is not a Python 3.9 to 3.13 that can" \
            "make environments (python -m venv)"
elif whole; then
    :
elif ! make_any; then
    fail "soka_tf needs Python 3.9 to 3.13 with the venv and pip modules" \
        "(TensorFlow has no release for older or newer ones that serves), and none was" \
        "found. Install one (Debian: apt install python3-venv; or pyenv install 3.13;" \
        "or uv) or name one: make PYTHON=/path/to/python3.13 ..."
fi

echo "using $("$venv/bin/python" -V) in $venv"
set -- requirements.txt "$@"
for file; do set -- "$@" -r "$file"; shift; done
: >"$log"
if has_tensorflow; then
    echo "looking for packages that are missing or of another version ..."
else
    echo "installing TensorFlow and the other packages (about a minute, 2 GB on disk) ..."
fi
patiently "$venv/bin/python" -m pip install --progress-bar off "$@"
echo "installing soka_tf ..."
patiently "$venv/bin/python" -m pip install --progress-bar off --no-deps --editable .
echo "installed"
