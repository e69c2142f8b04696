"""The one place where ports meet their implementations."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from config.settings import Settings
from worker.audit import AuditTrail
from worker.errors import ServiceError
from worker.execution.errors import UnservedChainError
from worker.execution.tracing import Tracing
from worker.intents.model import IntentRecord
from worker.keys.errors import KeyStoreSetupError
from worker.keys.port import KeyGiver, KeyStore
from worker.ledger.archived import ArchivedRecords
from worker.ledger.audit_heads import RedisHeads
from worker.ledger.brake import SharedBrake
from worker.ledger.connection import connect, named_errors, safe_url
from worker.ledger.epoch import LedgerEpoch
from worker.ledger.health import require_safe_url
from worker.ledger.keys import KEYS, PAUSES, digits_of_session, of_session
from worker.ledger.marks import Marks
from worker.ledger.notices import NoticeBook
from worker.ledger.pauses import Pauses
from worker.ledger.port import Ledger
from worker.ledger.redis_ledger import RedisLedger
from worker.ledger.strategies import StrategyBook
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.blanc import BlancOrchestrator
from worker.orchestrator.jwt_auth import JwtSigner
from worker.orchestrator.port import ApiVersion, Orchestrator
from worker.outbound import http_hosts
from worker.sealing import Sealer, SealKeys
from worker.sessions.registry import SessionRegistry

if TYPE_CHECKING:
    from worker.chain.reader import ChainReader
    from worker.keys.cache import KeyCache
    from worker.keys.record_keys import RecordKeyFile
    from worker.keys.vault_auth import Auth

# What an enqueuer does not need is imported where it is used: web3 and the key stores take a second to load, and
# `intents submit` has to answer within five, Redis's timeout included. Workers load all of it before they fork.

#: Sends the message "do this stage of this intent". It may fail: the due index finds the intent again.
Dispatch = Callable[[str, str], None]


log = structlog.get_logger(__name__)


def now_ms() -> int:
    """Our clock, unix milliseconds."""
    return time.time_ns() // 1_000_000


class Runtime:
    """The services of one process, each made when it is first used.

    An enqueuer never touches a session key, so its credentials are for the keys of the seals alone.

    Args:
        settings: the process's settings.
        dispatch: sends stage messages.
        dispatch_urgent: the same for urgent intents; without it they wait among the others.
        clock: unix milliseconds.
        hand_over_s: how long a stage may rely on what the stage before, in this process, has read; 0: every stage reads
            for itself.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        dispatch: Dispatch,
        dispatch_urgent: Dispatch | None = None,
        clock: Callable[[], int] = now_ms,
        hand_over_s: float = 0.0,
    ) -> None:
        self.settings = settings
        self.dispatch = dispatch
        self.dispatch_urgent = dispatch_urgent or dispatch
        self.now_ms = clock
        self.hand_over_s = hand_over_s
        #: What `prepare` has read for the intent that it authorized last; see ``prepare.read_for_signing``.
        self.handed: object = None
        #: Intents that this process may hold a lease of without working on them: Redis went away meanwhile.
        self.hanging: set[str] = set()
        #: Strategy -> its session and guardrails as this process has last stored them.
        self.stored_guardrails: dict[str, tuple[str, str]] = {}
        #: Whether more intents are due than can be polled at the SDK's cadence.
        self.crowded = False
        #: When this process last looked whether the ledger is whole, unix ms.
        self.looked_ms = 0
        #: When it last looked for what becomes of intents that were completed early, unix ms.
        self.looked_late_ms = 0

    @property
    def now_s(self) -> int:
        """Our clock, unix seconds."""
        return self.now_ms() // 1000

    @cached_property
    def who(self) -> str:
        """This process's name in histories and leases."""
        return f"{socket.gethostname()}:{os.getpid()}"

    @cached_property
    def tracing(self) -> Tracing:
        """Where traces go."""
        return Tracing(self.settings.otlp_endpoint, self.http_hosts)

    @cached_property
    def http_hosts(self) -> frozenset[str]:
        """Hosts that plain http may go to, beside this machine."""
        return http_hosts(self.settings.plain_http_hosts)

    @cached_property
    def _redis_url(self) -> str:
        url = self.settings.redis_url.get_secret_value()
        require_safe_url(url, allow_insecure=self.settings.allow_insecure_redis)
        return url

    @cached_property
    def ledger(self) -> Ledger:
        """Records and budgets."""
        return RedisLedger(
            self._redis_url,
            timeout_ms=self.settings.redis_timeout_ms,
            marks=self.marks,
            sealer=self.sealer,
            audit=self.audit,
        )

    @cached_property
    def audit(self) -> AuditTrail:
        """The audit trail of this machine."""
        settings = self.settings
        return AuditTrail(
            settings.audit_file or settings.state_dir / "audit.jsonl", self.audit_heads, clock=self.now_ms
        )

    @cached_property
    def audit_heads(self) -> RedisHeads:
        """Where the audit trails' heads are kept outside of their machines."""
        return RedisHeads(
            connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms),
            where=safe_url(self._redis_url),
            sealer=self.sealer,
            stream=self.settings.audit_stream,
        )

    @cached_property
    def sealer(self) -> Sealer:
        """Makes and checks the seals on what we keep in Redis; nothing is read before its first use."""
        return Sealer(self.seal_keys)

    def seal_keys(self) -> SealKeys:
        """The keys of the seals, as they are stored now. Raises KeyStoreError."""
        from worker.keys.record_keys import VaultRecordKeys  # noqa: PLC0415
        from worker.keys.vault import VaultKeyStore  # noqa: PLC0415

        in_vault = self.settings.key_store == "vault" and self.settings.record_keys_file is None
        keys = self.keys if in_vault else None
        if isinstance(keys, VaultKeyStore):
            return VaultRecordKeys(keys, self.settings.vault_records_path).load()
        return record_key_file(self.settings).load()

    @cached_property
    def marks(self) -> Marks:
        """What this machine remembers of the ledger."""
        return Marks(self.settings.state_dir)

    @cached_property
    def epoch(self) -> LedgerEpoch:
        """Whether the ledger is the one that we wrote."""
        return LedgerEpoch(
            connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms),
            self.marks,
            where=safe_url(self._redis_url),
        )

    @cached_property
    def pauses(self) -> Pauses:
        """The kill switches."""
        return Pauses(
            connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms),
            where=safe_url(self._redis_url),
            sealer=self.sealer,
            revisions=self.marks,
        )

    @cached_property
    def strategies(self) -> StrategyBook:
        """Where each strategy stands, and those that were added at run time."""
        return StrategyBook(
            connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms),
            where=safe_url(self._redis_url),
            sealer=self.sealer,
            revisions=self.marks,
        )

    @cached_property
    def archived(self) -> ArchivedRecords:
        """What has ended, to be taken out of Redis."""
        return ArchivedRecords(
            connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms),
            where=safe_url(self._redis_url),
        )

    @cached_property
    def notices(self) -> NoticeBook:
        """What is to be told, and what was."""
        return NoticeBook(
            connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms),
            where=safe_url(self._redis_url),
        )

    @cached_property
    def sessions(self) -> SessionRegistry:
        """The imported sessions."""
        return SessionRegistry(
            connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms),
            where=safe_url(self._redis_url),
            sealer=self.sealer,
            revisions=self.marks,
        )

    @cached_property
    def keys(self) -> KeyStore:
        """The session keys."""
        return key_store(self.settings)

    def signing_keys(self, *session_ids: str) -> KeyGiver:
        """Where a signature for these sessions takes its keys: the key store, or what of it is kept for some seconds."""
        if not self.settings.key_cache_s:
            return self.keys
        return self.key_cache.of(" ".join(session_ids))

    @cached_property
    def key_cache(self) -> KeyCache:
        """The keys that this process keeps, for ``key_cache_s``."""
        from worker.keys.cache import KeyCache  # noqa: PLC0415
        from worker.keys.keystore import KeystoreFiles  # noqa: PLC0415

        keys, redis = self.keys, connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms)

        def watch(session_ids: str) -> str:
            """The revisions of the kill switches and the sessions, and what key commands have counted."""
            pipe = redis.pipeline(transaction=False)
            pipe.get(KEYS)
            pipe.hget(PAUSES, "rev")
            for session_id in session_ids.split():
                pipe.hget(of_session(digits_of_session(session_id), "session"), "rev")
            return str(pipe.execute())

        stamp = keys.stamp if isinstance(keys, KeystoreFiles) else None
        return KeyCache(keys, self.settings.key_cache_s, watch, stamp)

    def tell_keys_changed(self) -> None:
        """Let signers forget the keys that they keep. A failure is only logged: they keep none for long."""
        try:
            with named_errors(safe_url(self._redis_url), writes=True):
                connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms).incr(KEYS)
        except ServiceError as error:
            log.warning(
                "signers are not told that a key has changed",
                reason=str(error),
                consequence="what one keeps is used for at most SESSION_EXECUTOR_KEY_CACHE_S",
            )

    @cached_property
    def orchestrator(self) -> Orchestrator:
        """The orchestrator, in the version that new quotes are asked for."""
        return self._speaking(self.settings.orchestrator_version)

    @cached_property
    def _other_orchestrator(self) -> Orchestrator:
        chosen = self.settings.orchestrator_version
        return self._speaking("2026-01.alps" if chosen == "2026-04.blanc" else "2026-04.blanc")

    def orchestrator_of(self, version: ApiVersion) -> Orchestrator:
        """The orchestrator in the version of a quote: what was signed before the setting changed goes on in its own."""
        return (
            self.orchestrator if version == self.settings.orchestrator_version else self._other_orchestrator
        )

    def _speaking(self, version: ApiVersion) -> Orchestrator:
        kind = BlancOrchestrator if version == "2026-04.blanc" else AlpsOrchestrator
        return kind(
            self.settings.orchestrator_url,
            api_key=self.settings.orchestrator_api_key.get_secret_value(),
            timeout_ms=self.settings.http_timeout_ms,
            jwt=jwt_signer(self.settings),
            http_hosts=self.http_hosts,
            brake=self.brake,
        )

    @cached_property
    def brake(self) -> SharedBrake:
        """Until when the orchestrator wants to be left alone by all of us."""
        return SharedBrake(
            lambda: connect(self._redis_url, timeout_ms=self.settings.redis_timeout_ms), self.now_ms
        )

    @cached_property
    def chain(self) -> ChainReader:
        """The program's own chain."""
        return self._reader(self.settings.rpc_url.get_secret_value(), self.settings.chain_id)

    def chain_of(self, chain_id: int) -> ChainReader:
        """The chain of a session: the program's own, or a further one that trades may use.

        Raises:
            UnservedChainError: no endpoint is set for it.
        """
        if chain_id == self.settings.chain_id:
            return self.chain
        found = self._source_chains.get(chain_id)
        if found is None:
            url = self.settings.source_rpc_urls.get(chain_id)
            if url is None:
                raise UnservedChainError(
                    f"chain {chain_id} is not served: this program is set to {', '.join(map(str, self.chain_ids))}",
                    field="session",
                    fix=f'add "{chain_id}" to SESSION_EXECUTOR_SOURCE_RPC_URLS',
                )
            found = self._source_chains[chain_id] = self._reader(url.get_secret_value(), chain_id)
        return found

    @property
    def chain_ids(self) -> tuple[int, ...]:
        """The chains that are served, the program's own first."""
        own = self.settings.chain_id
        return own, *sorted(set(self.settings.source_rpc_urls) - {own})

    @cached_property
    def _source_chains(self) -> dict[int, ChainReader]:
        return {}

    def _reader(self, url: str, chain_id: int) -> ChainReader:
        from worker.chain.reader import ChainReader  # noqa: PLC0415

        return ChainReader(
            url,
            chain_id=chain_id,
            timeout_ms=self.settings.rpc_timeout_ms,
            http_hosts=self.http_hosts,
        )


def version_of(record: IntentRecord) -> ApiVersion:
    """The wire version of a record's quote; records from before there was a choice are alps."""
    return "2026-04.blanc" if record.fields.get("api_version") == "2026-04.blanc" else "2026-01.alps"


def jwt_signer(settings: Settings) -> JwtSigner | None:
    """Who signs our tokens for the orchestrator; None when an API key says who we are.

    Raises:
        InputError: a setting is missing or cannot be used.
    """
    if settings.orchestrator_auth == "api-key":
        return None
    return JwtSigner(
        settings.orchestrator_jwt_key.get_secret_value(),
        key_id=settings.orchestrator_jwt_key_id,
        integrator_id=settings.orchestrator_jwt_integrator_id,
        project_id=settings.orchestrator_jwt_project_id,
        app_id=settings.orchestrator_jwt_app_id,
    )


def record_key_file(settings: Settings) -> RecordKeyFile:
    """The file of the keys of the seals; one that the settings do not name is made when it is first needed."""
    from worker.keys.record_keys import FILE_NAME, RecordKeyFile  # noqa: PLC0415

    named = settings.record_keys_file
    return RecordKeyFile(named or settings.keystore_dir / FILE_NAME, make=named is None)


def key_store(settings: Settings) -> KeyStore:
    """The key store that the settings name.

    Raises:
        KeyStoreSetupError: they do not fit together.
    """
    from worker.keys.keystore import KeystoreFiles, passphrase_provider  # noqa: PLC0415
    from worker.keys.vault import Tls, Transit, VaultKeyStore  # noqa: PLC0415

    if settings.key_store == "keystore":
        passphrase = settings.keystore_passphrase
        return KeystoreFiles(
            settings.keystore_dir,
            passphrase_provider(
                None if passphrase is None else passphrase.get_secret_value(),
                settings.keystore_passphrase_file,
            ),
        )
    return VaultKeyStore(
        settings.vault_addr,
        settings.vault_namespace,
        _vault_auth(settings),
        mount=settings.vault_mount,
        prefix=settings.vault_prefix,
        timeout_s=settings.vault_timeout_s,
        kv_version=1 if settings.vault_kv_version == "1" else 2,
        tls=Tls(settings.vault_ca_file, settings.vault_client_cert_file, settings.vault_client_key_file),
        redirect_hosts=settings.vault_redirect_hosts.split(","),
        http_hosts=http_hosts(settings.plain_http_hosts),
        transit=Transit(settings.vault_transit_key, settings.vault_transit_mount.strip("/"))
        if settings.vault_transit_key
        else None,
    )


def _vault_auth(settings: Settings) -> Auth:
    """How to log in to Vault.

    Raises:
        KeyStoreSetupError: a secret id is given both plain and wrapped.
    """
    from worker.keys.vault_auth import AppRoleAuth, CertAuth, KubernetesAuth, TokenAuth  # noqa: PLC0415

    method, mount = settings.vault_auth, settings.vault_auth_mount
    if method == "auto":
        method = "approle" if settings.vault_role_id else "token"
    if method == "approle":
        plain, wrapped = settings.vault_secret_id, settings.vault_wrapped_secret_id
        if plain is not None and wrapped is not None:
            raise KeyStoreSetupError(
                "is set beside vault_wrapped_secret_id", field="vault_secret_id", fix="unset one of them"
            )
        secret_id = wrapped or plain
        return AppRoleAuth(
            settings.vault_role_id,
            secret_id.get_secret_value() if secret_id is not None else "",
            mount or "approle",
            wrapped=wrapped is not None,
        )
    if method == "kubernetes":
        return KubernetesAuth(settings.vault_auth_role, settings.vault_jwt_file, mount or "kubernetes")
    if method == "cert":
        return CertAuth(settings.vault_auth_role, mount or "cert")
    return TokenAuth(settings.vault_token.get_secret_value() if settings.vault_token is not None else "")
