#!/usr/bin/env bash
# Check that identifiers, docstrings, comments and documents use the project's vocabulary.
# Usage: scripts/vocabulary.sh [PATH…]. The words are in docs/vocabulary.txt, the terms in
# docs/glossary.md. codespell also turns British into American spelling.
set -euo pipefail
cd "$(dirname "$0")/.."

paths=("$@")
[ ${#paths[@]} -gt 0 ] ||
    paths=(app worker models benchmarks migrations tests scripts docs/*.md docs/guides README.md ARCHITECTURE.md
        CHANGELOG.md CONTRIBUTING.md Makefile Dockerfile docker-compose.yml pyproject.toml .ci/run
        .github/workflows/ci.yml .pre-commit-config.yaml)

# `cancelled` is a public status, `unauthorised` a public problem type. Names stored in manifests,
# weights files, tables and certificates stay as they are, in quotes or backticks.
exec "${BIN:-.venv/bin}/codespell" \
    --dictionary - --dictionary docs/vocabulary.txt --builtin en-GB_to_en-US \
    --regex '[A-Z]?[a-z]+|[A-Z]+' \
    --ignore-words-list cancelled,cancelling,unauthorised \
    --skip 'scripts/vocabulary.sh,tests/fixtures/*' \
    --ignore-regex '["`](items\.)?(slot|slots|seals|cohort|cohort_share|look|reach|cooling|fold|unfolded|freeze|(expected|first|taught|reached)_rise|symmetrised_kl|centre)["`]|LETHE_COHORT_SHARE|uq_items_slot|#: The stored name is [a-z_`]+\.|\bcentre\b' \
    "${paths[@]}"
