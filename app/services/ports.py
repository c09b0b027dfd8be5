"""What the use cases need of storage: one protocol per repository, and the unit of work.

The one real implementation is `app.storage`. Every method is one query or one conditional update;
none commits. Times named "the database's clock" are compared inside the statement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from app.domain.catalog import DataChange, Interaction, Item, User
    from app.domain.jobs import Job, Lease
    from app.domain.releases import Alias, Release, Replica, Standing
    from app.domain.requests import ForgetRequest, RequestStatus


class RequestRepository(Protocol):
    """Deletion requests."""

    def add(self, request: ForgetRequest) -> None: ...
    def get(self, request_id: str) -> ForgetRequest: ...
    def by_subject_hash(self, subject_hash: str) -> ForgetRequest | None:
        """Return the request that suppresses this subject at present, if any."""

    def suppressing(self, subject_hashes: Iterable[str]) -> list[ForgetRequest]:
        """Return all requests that suppress any of these at present, oldest first."""

    def latest_completed(self, subject_hash: str) -> ForgetRequest | None:
        """Return the last completed request for this subject, consent recorded or not."""

    def open_of_user(self, user_id: str) -> list[ForgetRequest]:
        """Return this user's requests that are neither completed nor cancelled, oldest first."""

    def count_by_status(self) -> dict[RequestStatus, int]: ...
    def open_item_ids(self) -> set[str]:
        """Return the items that open requests of scope `item` suppress."""

    def any_open_pairs(self) -> bool:
        """Say whether any open request suppresses single interactions of a user."""

    def of_job(self, job_id: str) -> list[ForgetRequest]: ...
    def page(self, limit: int, cursor: str | None) -> list[ForgetRequest]: ...
    def change_status(
        self, request: ForgetRequest, expected: Iterable[RequestStatus], **changes: Any
    ) -> bool:
        """Conditionally update one request; False when its status was none of `expected`.

        `changes` are fields of the request, and `completed_version` at its completion.
        """

    def ready_for_batch(self, limit: int) -> list[ForgetRequest]:
        """Return jobless `batched` ones, then `scheduled` ones past their cancel window."""

    def assign_batch(self, request_ids: Sequence[str], job_id: str) -> int:
        """Give the requests to the job where still scheduled or jobless; return how many took."""

    def advance_of_job(self, lease: Lease, status: RequestStatus, progress: float) -> None: ...
    def release_of_job(self, lease: Lease, *, max_failures: int) -> list[str]:
        """After a failed job: back to `batched` without a job, or `dead`; return the dead ids."""

    def completed_since(self, data_version: int) -> int:
        """Count requests that completed after this data version was frozen."""


class SuppressionRepository(Protocol):
    """What no input may use, by keyed hash."""

    def add(self, subject_hashes: Iterable[str], request: ForgetRequest) -> None: ...
    def lift(self, request_id: str) -> None: ...
    def lift_hash(self, subject_hash: str) -> bool:
        """Lift a tombstone after consent; the request can still be found by the hash."""

    def matching(self, subject_hashes: Iterable[str]) -> set[str]: ...
    def all_hashes(self) -> set[str]: ...
    def any_completed(self) -> bool:
        """Say whether any deletion has completed here (a shipped checkpoint must then not load)."""


class PeopleRepository(Protocol):
    """Users, items and interactions."""

    def user(self, user_id: str) -> User | None: ...
    def item(self, item_id: str) -> Item | None: ...
    def items(self) -> list[Item]:
        """Return the whole catalogue, retired items included, in order of slot."""

    def page_of_items(self, limit: int, after: str | None) -> list[Item]:
        """Return items that are not retired, in order of id, beginning after this id."""

    def users(self) -> Iterator[User]: ...
    def history(self, user_id: str) -> list[Interaction]:
        """Return a user's interactions in order of (timestamp, item id)."""

    def interactions(self) -> Iterator[Interaction]:
        """Stream all interactions in order of (user id, timestamp, item id)."""

    def count_of(self, user_id: str) -> int:
        """Return how many interactions this user has."""

    def raters_of(self, item_id: str) -> list[str]: ...
    def counts(self) -> dict[str, int]:
        """Return the numbers of users, items and interactions."""

    def known_items(self, item_ids: Iterable[str]) -> set[str]:
        """Return those of the ids that are in the catalogue and not retired."""

    def ensure_users(self, user_ids: Iterable[str]) -> None:
        """Add the users that are not held yet, leaving the attributes of others alone."""

    def upsert_users(self, users: Sequence[User]) -> None: ...
    def upsert_items(self, items: Sequence[tuple[str, str, dict[str, list[str]]]]) -> None:
        """Add or change (id, title, attributes); new items take the next free slots.

        Whether an item is on the shelf stays as it is; new ones are.
        """

    def set_available(self, item_ids: Iterable[str], *, available: bool) -> None:
        """Put items on the shelf, or take them off it."""

    def upsert_interactions(self, interactions: Sequence[Interaction]) -> None: ...
    def delete_user(self, user_id: str) -> int:
        """Delete a user with all interactions; return how many interactions went."""

    def delete_interactions(self, user_id: str, item_ids: Iterable[str]) -> int: ...
    def retire_item(self, item_id: str) -> int:
        """Delete an item's interactions and title and retire its slot for ever."""


class JobRepository(Protocol):
    """Jobs. Every write of a worker carries its lease and raises LeaseLostError when stale."""

    def add(self, job: Job, *, delay_seconds: float = 0.0) -> None:
        """Record a queued job; raises JobRunningError when one of any kind is open."""

    def get(self, job_id: str) -> Job: ...
    def open_job(self) -> Job | None: ...
    def page(self, limit: int, cursor: str | None) -> list[Job]: ...
    def claim(
        self, owner: str, lease_seconds: float, *, max_attempts: int | None = None
    ) -> tuple[Job, Lease] | None:
        """Claim the job that is queued, or active with an expired lease (the database's clock).

        A job that has used up `max_attempts` is left to the sweeper.
        """

    def renew(self, lease: Lease, lease_seconds: float) -> None: ...
    def update(self, lease: Lease, **changes: Any) -> None: ...
    def abandon(self, job_id: str, error: str) -> bool:
        """Mark a job dead whose lease has expired; False when somebody holds it after all."""

    def expired(self) -> list[Job]:
        """Return active jobs whose lease has expired, by the database's clock."""

    def claimable(self) -> list[str]:
        """Return the ids of queued jobs whose time has come, so that a lost wake-up is resent."""


class ReleaseRepository(Protocol):
    """Releases and the one alias, `live`."""

    def add(self, release: Release) -> None: ...
    def get(self, release_id: str) -> Release | None: ...
    def update(self, release_id: str, **changes: Any) -> None: ...
    def page(self, limit: int, cursor: str | None) -> list[Release]: ...
    def unshredded(self) -> list[Release]:
        """Return every release that is not shredded."""

    def alias(self) -> Alias: ...
    def set_target(self, release_id: str | None) -> None: ...
    def flip(self, expected: Alias, release_id: str) -> bool:
        """Compare-and-set the alias on (live, generation); False when somebody was faster."""


class ReplicaRepository(Protocol):
    """Gateway replicas and their leases, by the database's clock."""

    def register(self, replica_id: str, host: str, pid: int, ttl_seconds: float) -> None: ...
    def renew(self, replica_id: str, ttl_seconds: float, **changes: Any) -> bool:
        """Renew and record `serving`, `prepared` or `problem`; False when fenced or gone."""

    def live(self, margin_seconds: float) -> list[Replica]:
        """Return the replicas that may still answer: lease plus margin not yet over."""

    def all(self) -> list[Replica]: ...
    def fence(self, replica_ids: Iterable[str]) -> None: ...
    def remove(self, replica_id: str) -> None: ...
    def remove_expired(self, older_than_seconds: float) -> None: ...


class WorkerRepository(Protocol):
    """Worker processes that are up."""

    def beat(self, worker_id: str, host: str, pid: int, ttl_seconds: float) -> None: ...
    def remove(self, worker_id: str) -> None: ...
    def live_count(self) -> int: ...
    def live_on(self, host: str) -> bool:
        """Say whether a worker on this host has kept its row fresh."""


class OutboxRepository(Protocol):
    """Wake-ups owed to the broker."""

    def add(self, topic: str, entity_id: str) -> None: ...
    def pending(self, limit: int) -> list[tuple[int, str, str]]:
        """Return (outbox id, topic, entity id), oldest first; locked against other relays."""

    def mark_sent(self, outbox_ids: Sequence[int]) -> None: ...
    def overdue(self, seconds: float) -> int:
        """Count the wake-ups that have been owed for longer than this."""

    def prune(self, older_than_seconds: float) -> None: ...


class IdempotencyRepository(Protocol):
    """Idempotency keys."""

    def find(self, key_hash: str) -> tuple[str, str] | None:
        """Return (body hash, request id)."""

    def add(self, key_hash: str, body_hash: str, request_id: str) -> None: ...
    def forget_bodies(self, request_ids: Sequence[str]) -> None:
        """Empty the body hashes of completed requests."""

    def prune(self, older_than_seconds: float) -> None: ...


class StateRepository(Protocol):
    """The global data version and its change log."""

    def lock(self) -> None:
        """Wait for, then keep out, every other change of data until this transaction ends.

        Taken before the first read of a use case that decides on what it reads.
        """

    def data_version(self) -> int: ...
    def standing(self, subject_hashes: Iterable[str]) -> Standing:
        """Return version, alias and which of the hashes are suppressed, in one query."""

    def bump(self, kind: str, user_ids: Iterable[str | None] = (None,)) -> int:
        """Raise the data version by one per entry, log each, and return the new version."""

    def changes_since(self, version: int) -> list[DataChange]: ...
    def forget_user_in_log(self, user_id: str) -> None:
        """Empty this user's entries in the change log."""

    def key_fingerprint(self, candidate: str) -> str:
        """Return the fingerprint of this database's hash key; the first `candidate` sets it."""

    def now(self) -> datetime:
        """Return the time by the database's clock."""


class UnitOfWork(Protocol):
    """One transaction: entering begins it, leaving commits it, an exception rolls it back."""

    requests: RequestRepository
    suppressions: SuppressionRepository
    people: PeopleRepository
    jobs: JobRepository
    releases: ReleaseRepository
    replicas: ReplicaRepository
    workers: WorkerRepository
    outbox: OutboxRepository
    idempotency: IdempotencyRepository
    state: StateRepository

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class UnitOfWorkFactory(Protocol):
    """Makes units of work; `write=False` gives a consistent snapshot without locking writers."""

    def __call__(self, *, write: bool = True) -> UnitOfWork: ...
