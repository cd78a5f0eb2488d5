#!/bin/sh
# The install steps of the image: hack/install-image.sh dependencies|project FOLDER
#
# dependencies   a virtual environment without pip, with what requirements/image.txt locks
# project        FlexInfer itself into it, from a wheel that the locked tools of requirements/build.txt make
# Works in the current folder. PYTHON is python3 unless it is set; the environment stays where it is made.
set -eu
step=${1:?usage: hack/install-image.sh dependencies|project FOLDER}
folder=${2:?usage: hack/install-image.sh dependencies|project FOLDER}
python=${PYTHON:-python3}
install() { "$python" -m pip --python "$1/bin/python" --quiet --disable-pip-version-check --no-input install "$2" "$3" "$4"; }

case $step in
    dependencies)
        "$python" -m venv --without-pip "$folder"
        install "$folder" --require-hashes -r requirements/image.txt
        ;;
    project)
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        "$python" -m venv --without-pip "$work/tools"
        install "$work/tools" --require-hashes -r requirements/build.txt
        "$work/tools/bin/python" -m hatchling build --target wheel --directory "$work/wheel" >/dev/null
        install "$folder" --no-deps --no-index "$work"/wheel/*.whl
        ;;
    *)
        echo "hack/install-image.sh: $step is no step" >&2
        exit 2
        ;;
esac
