#!/bin/sh
# Runs tests/test_django*.py with each supported Django, in venvs that are kept for the next time:
#
#     tests/django_matrix.sh [FOLDER] [pytest arguments ...]       (FOLDER: default .ci-venv-django)
#
# Pythons are pyenv's, else those on PATH.  Exit status: 0 when all of them passed.

cd "$(dirname "$0")/.." || exit 2
folder=${1:-.ci-venv-django}
[ $# -eq 0 ] || shift
failed=""

interpreter() {
    for each in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python "$(command -v "python$1")"; do
        [ -x "$each" ] && echo "$each" && return
    done
}

try() {
    python=$1 django=$2 psycopg2=$3 venv="$folder/py$1-django$2"
    shift 3
    echo "== Django $django, Python $python"
    if [ ! -x "$venv/bin/pytest" ]; then
        "$(interpreter "$python")" -m venv "$venv" && "$venv/bin/pip" install -q \
            "Django~=$django.0" "psycopg2-binary$psycopg2" requests celery gunicorn 'pytest>=7' 'pytest-timeout>=2'
    fi && PYTHONPATH=$PWD "$venv/bin/python" -m pytest -p no:cacheprovider tests/test_django*.py "$@" ||
        failed="$failed $django"
}

try 3.8 2.2 '<2.9' "$@"  # Django before 3.1 can't read what newer ones give
try 3.8 3.2 '>=2.8' "$@"
try 3.11 4.2 '>=2.8' "$@"
try 3.13 5.2 '>=2.8' "$@"
try 3.13 6.1 '>=2.8' "$@"
[ -z "$failed" ] || { echo "failed with Django$failed"; exit 1; }
