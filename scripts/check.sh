#!/usr/bin/env bash
# The gates of `make check`. All gates run, so that one call shows every failure.
set -uo pipefail
cd "$(dirname "$0")/.."

: "${BIN:=.venv/bin}" "${POSTGRES_URL:=postgresql+psycopg://postgres@127.0.0.1:5432}"
failed=()
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

gate() { # gate NAME COMMAND…
    local name="$1"
    shift
    printf '\n— %s\n' "$name"
    "$@" || failed+=("$name")
}

# Only migrations create tables, so a freshly migrated database must match app/storage/tables.py.
migrations() { # migrations URL
    LETHE_DATABASE_URL="$1" "$BIN/alembic" upgrade head &&
        LETHE_DATABASE_URL="$1" "$BIN/alembic" check
}

postgres_sql() { # postgres_sql STATEMENT
    "$BIN/python" - "$POSTGRES_URL" "$1" <<'PYTHON'
import sys

import sqlalchemy

engine = sqlalchemy.create_engine(
    f"{sys.argv[1]}/postgres", isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3}
)
with engine.connect() as connection:
    connection.execute(sqlalchemy.text(sys.argv[2]))
PYTHON
}

migrations_postgres() {
    local database="lethe_check_$$" status=0
    postgres_sql "CREATE DATABASE $database" || return 1
    migrations "$POSTGRES_URL/$database" || status=1
    postgres_sql "DROP DATABASE $database WITH (FORCE)" || status=1
    return $status
}

# The compose file must parse with nothing set but its required variables; `docker compose config`
# checks its meaning too where docker is installed (no engine is needed for that).
compose_config() {
    LETHE_API_KEYS=x LETHE_HASH_KEY=x LETHE_SIGNING_KEY=x POSTGRES_PASSWORD=x \
        docker compose -f docker-compose.yml config --quiet
}

shell_syntax() {
    local script status=0
    for script in .ci/run scripts/*.sh; do
        bash -n "$script" || status=1
    done
    return $status
}

gate "ruff check" "$BIN/ruff" check .
gate "ruff format" "$BIN/ruff" format --check .
gate "mypy (strict)" "$BIN/mypy"
gate "import contracts" "$BIN/lint-imports"
gate "vocabulary" env BIN="$BIN" bash scripts/vocabulary.sh
gate "docs/settings.md is current" "$BIN/python" -m scripts.settings_docs --check
gate "alembic check (SQLite)" migrations "sqlite:///$scratch/check.db"
if postgres_sql "SELECT 1" >"$scratch/postgres.log" 2>&1; then
    gate "alembic check (PostgreSQL)" migrations_postgres
elif [ "${CI:-}" = true ]; then
    cat "$scratch/postgres.log"
    failed+=("alembic check (PostgreSQL): no server answers")
else
    printf '\n— alembic check (PostgreSQL): skipped, no server answers at %s\n' "$POSTGRES_URL"
fi
gate "docker-compose.yml: schema" \
    "$BIN/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml
if docker compose version >/dev/null 2>&1; then
    gate "docker-compose.yml: meaning" compose_config
fi
gate ".github/workflows: schema" \
    "$BIN/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
gate "yamllint" "$BIN/yamllint" --strict docker-compose.yml .yamllint.yaml \
    .pre-commit-config.yaml .github/workflows
gate "hadolint" "$BIN/hadolint" Dockerfile
gate "shell syntax" shell_syntax

if [ ${#failed[@]} -gt 0 ]; then
    printf '\nFailed: %s\n' "${failed[@]}" >&2
    exit 1
fi
printf '\nAll gates passed.\n'
