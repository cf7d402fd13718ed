#!/usr/bin/env bash
# Makes one virtual environment: make_venv.sh PYTHON FOLDER
# Every way this can fail on a bare Debian or Ubuntu is said in one line with its remedy.
set -euo pipefail
python=$1
folder=$2

if ! command -v "$python" >/dev/null; then
    echo "$python: not found; install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "$("$python" --version) is too old; name Python 3.10 or newer: make PYTHON=/path/to/python3" >&2
    exit 1
fi
# Debian splits ensurepip off into a package of its own; without it a venv gets no pip.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing $package"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null
    else
        echo "$python cannot make a virtual environment; run: sudo apt-get install $package" >&2
        exit 1
    fi
fi
# A sound environment is kept: pip brings it up to date faster than a new one fills.
if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear "$folder"
fi
