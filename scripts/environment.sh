# Makes the environment .venv at the repository's root; sourced by the commands beside it.
#
#   environment GROUP     install the package with its extras and a dependency group of pyproject.toml
#
# A second run installs nothing, unless pyproject.toml has changed. Sets $python.

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
    echo "Python 3.11 or newer, with venv, is needed; none was found as python3 or python3.11 to python3.14." >&2
    return 1
}

# Compiles what is installed, on all cores; pip would do it on one.
compile() {
    "$1" -m compileall -qq --workers 0 "$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
}

environment() {
    made_for="$root/.venv/made-for-$1"
    if [ -f "$made_for" ] && cmp -s pyproject.toml "$made_for"; then
        return
    fi
    echo "Making the environment .venv (a few minutes, the first time) ..." >&2
    if ! "$python" -c '' >/dev/null 2>&1; then
        newest=$(newest_python) || exit 1
        "$newest" -m venv --clear .venv || exit 1
    fi
    # Dependency groups are known to pip since 25.1.
    "$python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' >&2 || exit 1
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile \
        --editable '.[azure,mlflow]' --group "$1" >&2 || exit 1
    compile "$python"
    cp pyproject.toml "$made_for"
}
