"""One Settings, read from LETHE_* environment variables; refuses default secrets in production."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.backbone_names import KNOWN, check_backbone
from app.domain.errors import InvalidInputError

Positive = Annotated[float, Field(gt=0)]

#: Where Docker and Kubernetes mount secrets: a file `lethe_hash_key` sets `hash_key`, and so on.
_SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    """Everything that an operator can set. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="LETHE_",
        extra="ignore",
        # Fields whose variable has an older name as well are still set by name in code.
        populate_by_name=True,
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
    )

    home: Path = Field(
        default_factory=lambda: user_data_path("lethe", appauthor=False),
        description="Data directory: database, artefacts, keys.",
    )
    database_url: str = Field(
        default="", description="SQLAlchemy URL; unset: SQLite under LETHE_HOME."
    )
    broker_url: str | None = Field(default=None, description="Redis for Celery; unset: embedded.")
    artifacts_url: str = Field(
        default="", description="fsspec URL of the artefacts; unset: LETHE_HOME/artifacts."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="Comma-separated bearer keys; unset: loopback only."
    )
    environment: Literal["development", "production"] = "development"
    hash_key: SecretStr | None = Field(
        default=None, description="Secret of the keyed hashes; unset: made once under LETHE_HOME."
    )
    signing_key: SecretStr | None = Field(
        default=None,
        description="Ed25519 private key (PEM) that signs certificates; unset: made once.",
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    replicas: Annotated[int, Field(gt=0)] = Field(
        default=1, description="Gateway processes of `lethe up`, all on the one port."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Extra Host headers to accept, comma-separated."
    )
    max_body_bytes: Annotated[int, Field(gt=0)] = 1_000_000
    request_timeout: Positive = Field(
        default=10.0, description="A connection is closed whose request is not complete by then."
    )
    max_connections: Annotated[int, Field(gt=0)] = Field(
        default=1000, description="Connections that a gateway holds; further ones are closed."
    )

    batch_size: Annotated[int, Field(gt=0)] = Field(
        default=32, description="A batch closes at this many requests…"
    )
    batch_seconds: Annotated[float, Field(ge=0)] = Field(
        default=30.0, description="…or when its oldest request has waited this long."
    )
    cancel_window: Annotated[float, Field(ge=0)] = Field(
        default=60.0, description="For how long a request can be cancelled."
    )
    due_days: Positive = Field(default=30.0, description="By when a deletion is promised.")

    backbone: str = Field(default="compact", description=f"What is tuned: {KNOWN}.")
    method: str = Field(default="e2urec-fast", description="How forget jobs unlearn.")
    train_rows: Annotated[int, Field(ge=20)] | None = Field(
        default=None,
        description="Train on about so many rows at most; unset: 4,000 for language models.",
    )
    evaluation_rows: Annotated[int, Field(ge=20)] | None = Field(
        default=None,
        validation_alias=AliasChoices("LETHE_EVALUATION_ROWS", "LETHE_LOOK_ROWS"),
        description="Choose, measure and audit on so many rows; unset: 400 for language models.",
    )
    holdout_share: Annotated[float, Field(ge=0.005, le=0.5)] = Field(
        default=0.03,
        validation_alias=AliasChoices("LETHE_HOLDOUT_SHARE", "LETHE_COHORT_SHARE"),
        description="Share of users never trained on: the holdout users of the audit.",
    )
    error_budget: Annotated[int, Field(ge=0)] = Field(
        default=20, description="Inconclusive audits per lineage before an exact retraining."
    )
    seed: int = 0
    torch_threads: Annotated[int, Field(gt=0)] = 1
    device: str = Field(
        default="auto", description="Where models are: auto, cpu, cuda, cuda:1 or mps."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Precision of language models; auto: bfloat16 where measured faster.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations from the start, not only once memory ran out.",
    )
    train_processes: Annotated[int, Field(gt=0)] = Field(
        default=1, description="Processes that train together, each on a GPU of its own."
    )

    job_lease: Positive = 30.0
    job_attempts: Annotated[int, Field(gt=0)] = 5
    request_failures: Annotated[int, Field(gt=0)] = 3
    retry_delay: Annotated[float, Field(ge=0)] = 10.0
    worker_nice: Annotated[int, Field(ge=0, le=19)] = Field(
        default=19, description="Niceness of workers: training takes what gateways leave."
    )
    poll_seconds: Positive = Field(default=0.5, description="How often the embedded loop looks.")
    replica_ttl: Positive = 10.0
    replica_margin: Positive = 2.0
    rollout_timeout: Positive = Field(
        default=60.0, description="How long a replica may take to prepare or confirm."
    )
    drain_timeout: Positive = 10.0
    scoring_threads: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="Recommendations that are made at once; unset: 2, or 16 with an engine.",
    )
    steps_at_once: Annotated[int, Field(gt=0)] = Field(
        default=2, description="Passes through the model at once, each on LETHE_TORCH_THREADS."
    )
    step_tokens: Annotated[int, Field(gt=0)] = Field(
        default=256,
        description="Tokens of candidates that a language model reads in one pass, of all who wait;"
        " more than fill one row pay off on accelerators.",
    )
    prefix_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        default=256 * 2**20,
        description="Memory for what a language model made of histories, per release; 0: none.",
    )
    scoring_queue: Annotated[int, Field(gt=0)] = Field(
        default=64, description="Recommendations under way or waiting; beyond it 503."
    )
    candidates: Annotated[int, Field(gt=0)] = 200

    scorer: Literal["torch", "vllm", "sglang"] = Field(
        default="torch", description="What computes scores: torch here, or an engine elsewhere."
    )
    engine_url: str = Field(
        default="", description="Base URL of the engine, as in http://127.0.0.1:8001."
    )
    engine_key: SecretStr | None = Field(
        default=None, description="Bearer key of the engine; unset: it asks for none."
    )
    engine_timeout: Positive = Field(
        default=10.0,
        description="How long a call to the engine may take, and an adapter until it answers.",
    )
    engine_adapters: str = Field(
        default="",
        description="Where the engine sees the artefacts' `adapters`; unset: at our own path.",
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("api_keys", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(p for p in map(str.strip, value.split(",")) if p)
            if isinstance(value, str)
            else value
        )

    @field_validator("backbone")
    @classmethod
    def _is_a_backbone(cls, value: str) -> str:
        try:
            return check_backbone(value)
        except InvalidInputError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _production_needs_secrets(self) -> Settings:
        missing = [n for n in ("hash_key", "signing_key") if getattr(self, n) is None]
        if self.environment == "production" and (missing or not self.api_keys):
            wanted = [f"LETHE_{n.upper()}" for n in missing]
            wanted += [] if self.api_keys else ["LETHE_API_KEYS"]
            raise ValueError(f"production needs {', '.join(wanted)} to be set")
        return self

    @model_validator(mode="after")
    def _an_engine_needs_its_address(self) -> Settings:
        if self.scorer == "torch":
            return self
        parts = urlsplit(self.engine_url)
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
            raise ValueError(
                f"LETHE_SCORER={self.scorer} needs LETHE_ENGINE_URL to be the engine's base URL,"
                " http://host:port or https://…; a key goes into LETHE_ENGINE_KEY"
            )
        if self.engine_adapters and not self.engine_adapters.startswith("/"):
            raise ValueError("LETHE_ENGINE_ADAPTERS must be an absolute path of the engine's")
        return self

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'lethe.db'}"

    @property
    def artifacts_root(self) -> str:
        return self.artifacts_url or str(self.home / "artifacts")

    @property
    def threads_that_score(self) -> int:
        """More than pass through the model take the interpreter from each other; engines wait."""
        default = 2 if self.scorer == "torch" else 16
        return self.scoring_threads or default

    @property
    def backbones_directory(self) -> Path:
        return self.home / "backbones"

    @property
    def keys_directory(self) -> Path:
        return self.home / "keys"


@lru_cache
def get_settings() -> Settings:
    """Return the process's settings, read once."""
    return Settings()
