# Creates the environment .venv in the root of the repository. The other scripts source this file.
#
#   environment GROUP     install the package with its extras, and a dependency group of pyproject.toml
#
# A second run installs nothing unless pyproject.toml has changed. Sets $python.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root" || exit 1
python="$root/.venv/bin/python"

newest_python() {
    for name in python3.14 python3.13 python3.12 python3.11 python3; do
        if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or newer with venv is required. python3 and python3.11 to python3.14 were tried." >&2
    return 1
}

# Compiles the installed packages on all cores; pip would use one core.
compile() {
    "$1" -m compileall -qq --workers 0 "$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
}

environment() {
    made_for="$root/.venv/made-for-$1"
    if [ -f "$made_for" ] && cmp -s pyproject.toml "$made_for"; then
        return
    fi
    echo "Creating the environment .venv (a few minutes the first time) ..." >&2
    if ! "$python" -c '' >/dev/null 2>&1; then
        newest=$(newest_python) || exit 1
        "$newest" -m venv --clear .venv || exit 1
    fi
    # pip supports dependency groups since 25.1.
    "$python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' >&2 || exit 1
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile \
        --editable '.[azure,mlflow]' --group "$1" >&2 || exit 1
    compile "$python"
    cp pyproject.toml "$made_for"
}
