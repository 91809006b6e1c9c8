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
# behind them, and Debian's python3 may lack ensurepip.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
log=$venv/install.log
pyenv=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}
versions="3.13 3.12 3.11 3.10 3.9"
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

fits() { # does this command run, and is it a Python of the right version?
    "$@" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1 </dev/null
}

whole() { # does the folder hold a Python that fits, with a pip that runs?
    fits $venv/bin/python && $venv/bin/python -m pip --version >/dev/null 2>&1
}

origin() { # the installation and version behind a Python, in an environment or not
    "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null </dev/null
}

make_with() {
    fits "$1" || return 1
    if whole && [ "$(origin "$1")" = "$(origin $venv/bin/python)" ]; then return; fi
    [ ! -d $venv ] || echo "replacing $venv"
    rm -rf $venv
    "$1" -m venv $venv >/dev/null 2>&1 </dev/null && whole || { rm -rf $venv; return 1; }
}

make_with_version() { # 3.12: on the path, else pyenv's
    make_with "python$1" && return
    for python in "$pyenv/versions/$1".*/bin/python; do
        make_with "$python" && return
    done
    return 1
}

make_with_uv() { # 3.12, or a range
    command -v uv >/dev/null 2>&1 || return 1
    rm -rf $venv
    echo "asking uv for Python $1 ..."
    uv venv --quiet --python "$1" --seed $venv </dev/null && whole
}

make_named() { # PYTHON: a version, a command of that name or a path
    case $1 in
    3.[0-9] | 3.[0-9][0-9]) make_with_version "$1" || make_with_uv "$1" ;;
    python3.[0-9] | python3.[0-9][0-9]) make_with_version "${1#python}" ;;
    *) make_with "$1" ;;
    esac
}

make_any() {
    make_with python3 && return
    for version in $versions; do
        make_with_version $version && return
    done
    make_with python || make_with_uv ">=3.9,<3.14"
}

# Runs a long quiet command, with a sign of life every 10 seconds.
patiently() {
    "$@" >>$log 2>&1 </dev/null &
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
        tail -n 15 $log >&2
        echo "error: the installation failed; the whole log is in $log" >&2
        exit 1
    }
}

if [ -n "${PYTHON:-}" ]; then
    make_named "$PYTHON" || {
        echo "error: PYTHON=$PYTHON is not a Python 3.9 to 3.13 that can make" \
            "environments (python -m venv)" >&2
        exit 1
    }
elif whole; then
    :
elif ! make_any; then
    echo "error: soka_tf needs Python 3.9 to 3.13 with the venv and pip modules" \
        "(TensorFlow has no release for older or newer ones that serves), and none was" \
        "found. Install one (Debian: apt install python3-venv; or pyenv install 3.13;" \
        "or uv) or name one: make PYTHON=/path/to/python3.13 ..." >&2
    exit 1
fi

echo "using $($venv/bin/python -V) in $venv"
set -- requirements.txt "$@"
for file; do set -- "$@" -r "$file"; shift; done
: >$log
echo "installing TensorFlow and the other packages (about a minute, 2 GB on disk) ..."
patiently $venv/bin/python -m pip install --progress-bar off "$@"
echo "installing soka_tf ..."
patiently $venv/bin/python -m pip install --progress-bar off --no-deps --editable .
echo "installed"
