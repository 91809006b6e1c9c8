#!/bin/sh
# Makes .venv in the repository and installs soka_tf with what it needs.
#
#     sh tools/setup_venv.sh                      # for running
#     sh tools/setup_venv.sh requirements-dev.txt # and for testing
#     PYTHON=/path/to/python3.10 sh tools/setup_venv.sh
#
# A Python counts only if it really makes an environment with pip: pyenv's shims may
# exist without a version behind them, and Debian's python3 may lack ensurepip.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
log=$venv/install.log
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

fits() { # does this command run, and is it a Python of the right version?
    "$@" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' \
        >/dev/null 2>&1 </dev/null
}

whole() { # does .venv hold a Python that fits, with a pip that runs?
    fits $venv/bin/python && $venv/bin/python -m pip --version >/dev/null 2>&1
}

make_with() {
    fits "$1" || return 1
    [ ! -d $venv ] || echo "replacing $venv"
    rm -rf $venv
    "$1" -m venv $venv >/dev/null 2>&1 </dev/null && whole || { rm -rf $venv; return 1; }
}

make_with_uv() {
    command -v uv >/dev/null 2>&1 || return 1
    rm -rf $venv
    echo "no Python 3.9-3.11 found, asking uv for one ..."
    uv venv --quiet --python 3.11 --seed $venv </dev/null && whole
}

make_any() {
    for name in python3.11 python3.10 python3.9 python3 python; do
        make_with "$name" && return
    done
    pyenv=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}
    for python in "$pyenv"/versions/3.11*/bin/python \
        "$pyenv"/versions/3.10*/bin/python "$pyenv"/versions/3.9*/bin/python; do
        make_with "$python" && return
    done
    make_with_uv
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
    make_with "$PYTHON" || {
        echo "error: PYTHON=$PYTHON is not a Python 3.9, 3.10 or 3.11 that can make" \
            "environments (python -m venv)" >&2
        exit 1
    }
elif whole; then
    :
elif ! make_any; then
    echo "error: soka_tf needs Python 3.9, 3.10 or 3.11 with the venv and pip modules" \
        "(TensorFlow 2.15 supports no other), and none was found. Install one (Debian:" \
        "apt install python3.11-venv; or pyenv install 3.11; or uv) or name one:" \
        "make PYTHON=/path/to/python3.11 ..." >&2
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
