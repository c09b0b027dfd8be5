"""Settings, read from LETHE_* environment variables and from files in /run/secrets.

The descriptions of the fields are the source of docs/settings.md. Times are in seconds.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.backbone_names import KNOWN, check_backbone
from app.domain.errors import InvalidInputError
from app.domain.id_rules import IdRule
from app.domain.places import absolute, is_inside
from app.domain.renewal import ExactMode  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

Positive = Annotated[float, Field(gt=0)]

#: Docker and Kubernetes mount secrets here: the file `lethe_hash_key` sets `hash_key`.
_SECRETS = Path("/run/secrets")


#: Variables of the containers and of programs beside the service.
_OTHER_VARIABLES: Final = frozenset({"LETHE_BIND", "LETHE_KEY", "LETHE_URL", "LETHE_VERSION"})


class InvalidSettingsError(InvalidInputError):
    """The settings are not valid. {problems}."""

    code = "invalid-settings"


class Settings(BaseSettings):
    """All settings of Lethe. The variable of a field is LETHE_ and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="LETHE_",
        extra="ignore",
        # Allows code to set fields with a validation alias by name.
        populate_by_name=True,
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
    )

    home: Path = Field(
        default_factory=lambda: user_data_path("lethe", appauthor=False),
        description="Data directory for the SQLite database, artifacts, keys and backbones.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL of SQLite or PostgreSQL; unset: SQLite in LETHE_HOME.",
    )
    broker_url: str | None = Field(
        default=None,
        description="Redis URL for Celery; unset: `lethe up` runs the worker without a broker.",
    )
    artifacts_url: str = Field(
        default="",
        description="Path or fsspec URL of the artifact store; unset: `artifacts` in LETHE_HOME.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Bearer keys of API callers, comma-separated; unset: only loopback callers.",
    )
    environment: Literal["development", "production"] = Field(
        default="development",
        description="`production` requires LETHE_API_KEYS and LETHE_HASH_KEY, and in workers"
        " LETHE_SIGNING_KEY.",
    )
    ledger_url: str = Field(
        default="",
        description="Path or fsspec URL of the erasure ledger, outside LETHE_HOME and artifacts;"
        " unset: a directory beside LETHE_HOME, named like it with `-ledger`.",
    )
    hash_key: SecretStr | None = Field(
        default=None,
        description="Secret of the keyed hashes, which also draw the holdout users; must never"
        " change; unset: created in LETHE_HOME.",
    )
    id_rule: IdRule = Field(
        default=IdRule.EXACT,
        description="User ids are compared: exact, or email: in lower case; fixed at first start.",
    )
    signing_key: SecretStr | None = Field(
        default=None,
        description="Ed25519 private key (PEM) for certificates, in workers only; unset: created"
        " in LETHE_HOME.",
    )

    host: str = Field(
        default="127.0.0.1", description="IP address or host name on which the gateway listens."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8000, description="TCP port on which the gateway listens."
    )
    replicas: Annotated[int, Field(gt=0)] = Field(
        default=1, description="Number of gateway processes of `lethe up`, all on the same port."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="More Host headers to accept from callers without keys, comma-separated.",
    )
    root_path: str = Field(
        default="",
        description="Prefix of all paths behind a reverse proxy, such as /privacy; the proxy may"
        " strip the prefix or not.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses or networks of reverse proxies whose X-Forwarded-For and -Proto"
        " count, comma-separated.",
    )
    max_body_bytes: Annotated[int, Field(gt=0)] = Field(
        default=32 * 2**20,
        description="Largest accepted request body, in bytes; 10,000 items of 3 kB fit.",
    )
    request_timeout: Positive = Field(
        default=10.0,
        description="Seconds in which a request must arrive completely, or the connection closes.",
    )
    max_connections: Annotated[int, Field(gt=0)] = Field(
        default=1000,
        description="Open connections per gateway process; further connections are closed.",
    )

    batch_size: Annotated[int, Field(gt=0)] = Field(
        default=32, description="Number of deletion requests at which a batch closes."
    )
    batch_seconds: Annotated[float, Field(ge=0)] = Field(
        default=30.0,
        description="Seconds after the cancel window of a request when its batch closes.",
    )
    cancel_window: Annotated[float, Field(ge=0)] = Field(
        default=60.0,
        description="Seconds in which no batch takes a new deletion request; it can be cancelled.",
    )
    due_days: Positive = Field(
        default=30.0, description="Days in which the completion of a deletion is promised."
    )
    exact: ExactMode | None = Field(
        default=None,
        description="When deletions become exact by retraining: soon, deadline, or off; unset: soon"
        " if the last training took at most LETHE_EXACT_SOON_SECONDS, else deadline.",
    )
    exact_days: Annotated[float, Field(gt=0, le=36_500)] = Field(
        default=30.0,
        description="Days after a deletion request in which an exact training without the person is"
        " promised.",
    )
    exact_soon_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=600.0,
        description="Longest training, in seconds, after which LETHE_EXACT is soon by default.",
    )
    drift_rows: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1,
        description="Share of the training rows that fast unlearning may remove before a renewal.",
    )
    drift_loss: Positive = Field(
        default=0.05,
        description="Relative increase of the mean loss since the last exact training, on rows that"
        " train no model, before a renewal.",
    )

    backbone: str = Field(
        default="compact",
        description=f"Model that `lethe train` tunes while no release is live: {KNOWN}.",
    )
    method: str = Field(
        default="e2urec-fast",
        description="Unlearning method of forget jobs; `retrain` retrains exactly every time.",
    )
    fast: Literal["measured", "always"] = Field(
        default="measured",
        description="Which batches LETHE_METHOD unlearns: `measured`, those for which the release's"
        " shadow model shows that fast unlearning moves answers toward retraining, while others are"
        " trained exactly; or `always`.",
    )
    train_rows: Annotated[int, Field(ge=20)] | None = Field(
        default=None,
        description="Approximate number of training rows; unset: 4,000 for language models.",
    )
    evaluation_rows: Annotated[int, Field(ge=20)] | None = Field(
        default=None,
        validation_alias=AliasChoices("LETHE_EVALUATION_ROWS", "LETHE_LOOK_ROWS"),
        description="Rows for model selection, metrics and audit; unset: 400 for language models.",
    )
    holdout_share: Annotated[float, Field(ge=0.005, le=0.5)] = Field(
        default=0.03,
        validation_alias=AliasChoices("LETHE_HOLDOUT_SHARE", "LETHE_COHORT_SHARE"),
        description="Share of new users that no model trains on, the holdout users of the audit. "
        "Drawn once per user.",
    )
    seed: int = Field(default=0, description="Seed of the random numbers of training.")
    torch_threads: Annotated[int, Field(gt=0)] = Field(
        default=1, description="CPU threads of PyTorch, in workers and per scoring pass."
    )
    device: str = Field(
        default="auto",
        description="Device of models: cpu, cuda, cuda:1, mps, or auto for a GPU if available.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Precision of language models; auto: bfloat16 on devices where it is faster.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Always recompute activations in training; false: only when memory runs out.",
    )
    train_processes: Annotated[int, Field(gt=0)] = Field(
        default=1, description="Number of processes that train together, each on its own GPU."
    )

    job_lease: Positive = Field(
        default=30.0,
        description="Seconds after which the job of a silent worker can be claimed again.",
    )
    job_attempts: Annotated[int, Field(gt=0)] = Field(
        default=5,
        description="Number of claims of a job before it is abandoned; after the flip never.",
    )
    request_failures: Annotated[int, Field(gt=0)] = Field(
        default=3,
        description="Failures of a deletion request alone in its job, in a stage that another batch"
        " passed meanwhile, after which the request is `dead`.",
    )
    retry_delay: Annotated[float, Field(ge=0)] = Field(
        default=10.0,
        description="Seconds before the first retry of a failed job or deletion request; each"
        " further failure doubles them, up to 10 minutes.",
    )
    worker_nice: Annotated[int, Field(ge=0, le=19)] = Field(
        default=19,
        description="Niceness of workers; at 19, training uses CPU time that gateways leave.",
    )
    poll_seconds: Positive = Field(
        default=0.5, description="Seconds between two reads of the database by the polling loops."
    )
    replica_ttl: Positive = Field(default=10.0, description="Seconds of a gateway replica's lease.")
    replica_margin: Positive = Field(
        default=2.0,
        description="Seconds before the end of its lease when a replica stops answering.",
    )
    rollout_timeout: Positive = Field(
        default=60.0,
        description="Seconds in which a replica must prepare or confirm a release, or is fenced.",
    )
    drain_timeout: Positive = Field(
        default=10.0,
        description="Seconds for which running requests may use the previous release after a flip.",
    )
    scoring_threads: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="Recommendations computed at a time; unset: 2, or 16 with a serving engine.",
    )
    steps_at_once: Annotated[int, Field(gt=0)] = Field(
        default=2,
        description="Concurrent passes through the model, each with LETHE_TORCH_THREADS threads.",
    )
    step_tokens: Annotated[int, Field(gt=0)] = Field(
        default=256,
        description="Candidate tokens of concurrent requests that a language model scores in one"
        " pass; higher values suit accelerators.",
    )
    prefix_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        default=256 * 2**20,
        description="Bytes per release for cached language model states of histories; 0: no cache.",
    )
    scoring_queue: Annotated[int, Field(gt=0)] = Field(
        default=64,
        description="Calls for recommendations, for one user or several, that run or wait; further"
        " ones get 503 with Retry-After.",
    )
    scoring_backlog: Positive = Field(
        default=10.0,
        description="Expected seconds of the recommendations that run or wait, per scoring thread;"
        " further ones get 503 with Retry-After.",
    )
    candidates: Annotated[int, Field(gt=0)] = Field(
        default=200, description="Items that the first stage retrieves and the model ranks."
    )

    scorer: Literal["torch", "vllm", "sglang"] = Field(
        default="torch",
        description="Scorer: torch in the gateway process, or the serving engine vllm or sglang.",
    )
    engine_url: str = Field(
        default="", description="Base URL of the serving engine, such as http://127.0.0.1:8001."
    )
    engine_key: SecretStr | None = Field(
        default=None, description="Bearer key of the serving engine; unset: no key is sent."
    )
    engine_timeout: Positive = Field(
        default=10.0,
        description="Seconds for a call to the serving engine, and for an adapter to become ready.",
    )
    engine_adapters: str = Field(
        default="",
        description="Path of the artifact directory `adapters` on the engine's machine; unset: the"
        " path in this process.",
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Lowest level of logged events."
    )

    @field_validator("api_keys", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(p for p in map(str.strip, value.split(",")) if p)
            if isinstance(value, str)
            else value
        )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("home", mode="before")
    @classmethod
    def _check_home(cls, value: object) -> object:
        """Refuse an empty value, which would put personal data into the working directory."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty. Set it to a directory, or unset the variable")
        return value

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        path = value.strip().rstrip("/")
        if path and (not path.startswith("/") or re.search(r"[^\w/.~-]", path)):
            raise ValueError("LETHE_ROOT_PATH must be a path such as /privacy")
        return path

    @field_validator("ledger_url")
    @classmethod
    def _check_ledger_url(cls, value: str) -> str:
        """Make a path absolute: processes with other working directories share the ledger."""
        value = value.strip()
        if not value or "://" in value or "::" in value:
            return value
        return str(absolute(Path(value)))

    @field_validator("backbone")
    @classmethod
    def _check_backbone(cls, value: str) -> str:
        try:
            return check_backbone(value)
        except InvalidInputError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _require_secrets_in_production(self) -> Settings:
        secrets = {
            "LETHE_HASH_KEY": self.hash_key,
            "LETHE_API_KEYS": self.api_keys or None,
        }
        missing = [variable for variable, secret in secrets.items() if secret is None]
        if self.environment == "production" and missing:
            raise ValueError(f"LETHE_ENVIRONMENT=production needs {', '.join(missing)} to be set")
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> Settings:
        if self.scorer == "torch":
            return self
        parts = urlsplit(self.engine_url)
        is_plain = not (parts.username or parts.password or parts.query or parts.fragment)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
            raise ValueError(
                f"LETHE_SCORER={self.scorer} needs LETHE_ENGINE_URL to be the engine's base URL,"
                " http://host:port or https://…; set a key in LETHE_ENGINE_KEY"
            )
        if self.engine_adapters and not self.engine_adapters.startswith("/"):
            raise ValueError(
                "LETHE_ENGINE_ADAPTERS must be an absolute path on the engine's machine"
            )
        return self

    @model_validator(mode="after")
    def _check_ledger(self) -> Settings:
        """Refuse a ledger that a restored LETHE_HOME or artifact store would replace."""
        if not self.ledger_url and not absolute(self.home).name:
            raise ValueError(
                "LETHE_HOME is the root directory, beside which there is no directory for the"
                " erasure ledger. Set LETHE_LEDGER_URL."
            )
        places = {"LETHE_HOME": str(self.home), "the artifact store": self.artifacts_root}
        for name, place in places.items():
            if is_inside(self.ledger_root, place):
                raise ValueError(
                    f"the erasure ledger would lie inside {name}, and be lost or restored with it."
                    " Set LETHE_LEDGER_URL to a place of its own."
                )
        return self

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'lethe.db'}"

    @property
    def artifacts_root(self) -> str:
        return self.artifacts_url or str(self.home / "artifacts")

    @property
    def ledger_root(self) -> str:
        home = absolute(self.home)
        return self.ledger_url or str(home.with_name(f"{home.name}-ledger"))

    @property
    def threads_that_score(self) -> int:
        """Return the number of scoring threads.

        More threads than concurrent passes compete for the interpreter lock. With an engine, the
        threads mostly wait.
        """
        default = 2 if self.scorer == "torch" else 16
        return self.scoring_threads or default

    @property
    def backbones_directory(self) -> Path:
        return self.home / "backbones"

    @property
    def keys_directory(self) -> Path:
        return self.home / "keys"


def read_settings(**changes: Any) -> Settings:
    """Return the settings of the environment with these changes; raises InvalidSettingsError."""
    try:
        return Settings(**changes)
    except ValidationError as error:
        # Without the values, which may be secrets.
        problems = "; ".join(map(_sentence, error.errors()))
        raise InvalidSettingsError(problems=problems) from None


def _sentence(problem: ErrorDetails) -> str:
    fields = [str(part).upper().removeprefix("LETHE_") for part in problem["loc"][:1]]
    name = "".join(f"LETHE_{field}: " for field in fields)
    return name + problem["msg"].removeprefix("Value error, ")


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read at the first call; raises InvalidSettingsError."""
    settings = read_settings()
    for warning in unknown_variables(os.environ):
        sys.stderr.write(f"warning: {warning}\n")
    return settings


def settings_or_exit() -> Settings:
    """Return the settings of this process, or end the process with one sentence and status 2."""
    try:
        return get_settings()
    except InvalidSettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence about each variable LETHE_… that is no setting, with the nearest name."""
    known = {f"LETHE_{name.upper()}" for name in Settings.model_fields}
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            known |= {str(choice).upper() for choice in alias.choices}
    sentences = []
    for name in sorted(environment):
        # Variables can be in lower case, as pydantic reads them.
        if not name.upper().startswith("LETHE_") or name.upper() in known | _OTHER_VARIABLES:
            continue
        if name.upper().startswith("LETHE_TEST_"):
            continue
        nearest = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.75)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        sentences.append(f"{name} is no setting and has no effect.{hint}")
    return sentences
