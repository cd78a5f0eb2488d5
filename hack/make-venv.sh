#!/bin/sh
# Make a virtual environment, or say in one sentence why not. Usage: hack/make-venv.sh PYTHON FOLDER
set -eu
python=$1
folder=$2

if [ -z "$python" ]; then
    found=$(python3 --version 2>/dev/null || echo "no python3")
    echo "FlexInfer needs Python 3.11 or newer; this machine has $found. Pass another one as: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    found=$("$python" -c 'import sys; print("Python", sys.version.split()[0])' 2>/dev/null) || found=""
    echo "FlexInfer needs Python 3.11 or newer; $python is ${found:-not a Python that runs}" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi
echo "==> making $folder with $("$python" --version)"
"$python" -m venv --clear "$folder"
