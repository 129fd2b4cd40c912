from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("body", "number", "expires", "mac", "size")
    BODY_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    number: int
    expires: float
    mac: bytes
    size: int
    def __init__(self, body: _Optional[bytes] = ..., number: _Optional[int] = ..., expires: _Optional[float] = ..., mac: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("id", "incarnation", "labels", "slots", "max_active_runs", "protocol", "version", "python", "host", "pid", "held", "nonce", "coordinator")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_ACTIVE_RUNS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    incarnation: str
    labels: _containers.ScalarMap[str, str]
    slots: int
    max_active_runs: int
    protocol: int
    version: str
    python: str
    host: str
    pid: int
    held: _containers.RepeatedCompositeFieldContainer[Held]
    nonce: bytes
    coordinator: str
    def __init__(self, id: _Optional[str] = ..., incarnation: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., slots: _Optional[int] = ..., max_active_runs: _Optional[int] = ..., protocol: _Optional[int] = ..., version: _Optional[str] = ..., python: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., nonce: _Optional[bytes] = ..., coordinator: _Optional[str] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("run", "fence", "open", "ended", "rides")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    RIDES_FIELD_NUMBER: _ClassVar[int]
    run: str
    fence: int
    open: _containers.RepeatedScalarFieldContainer[int]
    ended: _containers.RepeatedScalarFieldContainer[int]
    rides: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run: _Optional[str] = ..., fence: _Optional[int] = ..., open: _Optional[_Iterable[int]] = ..., ended: _Optional[_Iterable[int]] = ..., rides: _Optional[_Iterable[int]] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("nonce", "proof")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    proof: bytes
    def __init__(self, nonce: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    def __init__(self, proof: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("heartbeat", "lease", "coordinator")
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    heartbeat: float
    lease: float
    coordinator: str
    def __init__(self, heartbeat: _Optional[float] = ..., lease: _Optional[float] = ..., coordinator: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "final", "key")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    reason: str
    final: bool
    key: bool
    def __init__(self, reason: _Optional[str] = ..., final: _Optional[bool] = ..., key: _Optional[bool] = ...) -> None: ...

class Up(_message.Message):
    __slots__ = ("hello", "proof", "heartbeat", "parts", "logs", "reports", "wants", "drained", "draining", "mark")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    proof: Proof
    heartbeat: Heartbeat
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    logs: _containers.RepeatedCompositeFieldContainer[Log]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    wants: _containers.RepeatedScalarFieldContainer[bytes]
    drained: bool
    draining: bool
    mark: int
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., proof: _Optional[_Union[Proof, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., logs: _Optional[_Iterable[_Union[Log, _Mapping]]] = ..., reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., wants: _Optional[_Iterable[bytes]] = ..., drained: _Optional[bool] = ..., draining: _Optional[bool] = ..., mark: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("running", "waiting", "load", "echo")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    load: float
    echo: int
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., load: _Optional[float] = ..., echo: _Optional[int] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("challenge", "welcome", "refusal", "parts", "assigns", "recalls", "cancels", "acks", "log_acks", "over", "drain", "echo", "mark", "heartbeat", "receipts")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNS_FIELD_NUMBER: _ClassVar[int]
    RECALLS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    LOG_ACKS_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    challenge: Challenge
    welcome: Welcome
    refusal: Refusal
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    assigns: _containers.RepeatedCompositeFieldContainer[Assign]
    recalls: _containers.RepeatedCompositeFieldContainer[Some]
    cancels: _containers.RepeatedCompositeFieldContainer[Some]
    acks: _containers.RepeatedCompositeFieldContainer[Some]
    log_acks: _containers.RepeatedCompositeFieldContainer[LogAck]
    over: _containers.RepeatedScalarFieldContainer[str]
    drain: bool
    echo: int
    mark: int
    heartbeat: float
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    def __init__(self, challenge: _Optional[_Union[Challenge, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., assigns: _Optional[_Iterable[_Union[Assign, _Mapping]]] = ..., recalls: _Optional[_Iterable[_Union[Some, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[Some, _Mapping]]] = ..., acks: _Optional[_Iterable[_Union[Some, _Mapping]]] = ..., log_acks: _Optional[_Iterable[_Union[LogAck, _Mapping]]] = ..., over: _Optional[_Iterable[str]] = ..., drain: _Optional[bool] = ..., echo: _Optional[int] = ..., mark: _Optional[int] = ..., heartbeat: _Optional[float] = ..., receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("run", "digest", "kept", "why")
    RUN_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    run: str
    digest: bytes
    kept: bool
    why: str
    def __init__(self, run: _Optional[str] = ..., digest: _Optional[bytes] = ..., kept: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class Some(_message.Message):
    __slots__ = ("run", "fence", "attempts")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    run: str
    fence: int
    attempts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run: _Optional[str] = ..., fence: _Optional[int] = ..., attempts: _Optional[_Iterable[int]] = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("run", "fence", "worker", "generation", "kit", "calls", "needs")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KIT_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    run: str
    fence: int
    worker: str
    generation: int
    kit: bytes
    calls: _containers.RepeatedCompositeFieldContainer[Call]
    needs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, run: _Optional[str] = ..., fence: _Optional[int] = ..., worker: _Optional[str] = ..., generation: _Optional[int] = ..., kit: _Optional[bytes] = ..., calls: _Optional[_Iterable[_Union[Call, _Mapping]]] = ..., needs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("attempt", "node", "function", "arguments", "apart", "place", "grows", "rides", "exclusive", "key", "values")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    GROWS_FIELD_NUMBER: _ClassVar[int]
    RIDES_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    node: str
    function: bytes
    arguments: bytes
    apart: bytes
    place: str
    grows: bool
    rides: int
    exclusive: bool
    key: str
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, attempt: _Optional[int] = ..., node: _Optional[str] = ..., function: _Optional[bytes] = ..., arguments: _Optional[bytes] = ..., apart: _Optional[bytes] = ..., place: _Optional[str] = ..., grows: _Optional[bool] = ..., rides: _Optional[int] = ..., exclusive: _Optional[bool] = ..., key: _Optional[str] = ..., values: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("attempt", "at")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    at: float
    def __init__(self, attempt: _Optional[int] = ..., at: _Optional[float] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("attempt", "outcome", "started", "ended", "value", "apart", "size", "failure", "stuck", "error", "final", "extra")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    outcome: int
    started: float
    ended: float
    value: bytes
    apart: bytes
    size: int
    failure: bytes
    stuck: bytes
    error: str
    final: bool
    extra: bytes
    def __init__(self, attempt: _Optional[int] = ..., outcome: _Optional[int] = ..., started: _Optional[float] = ..., ended: _Optional[float] = ..., value: _Optional[bytes] = ..., apart: _Optional[bytes] = ..., size: _Optional[int] = ..., failure: _Optional[bytes] = ..., stuck: _Optional[bytes] = ..., error: _Optional[str] = ..., final: _Optional[bool] = ..., extra: _Optional[bytes] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("run", "fence", "started", "finished", "recalled")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    RECALLED_FIELD_NUMBER: _ClassVar[int]
    run: str
    fence: int
    started: _containers.RepeatedCompositeFieldContainer[Started]
    finished: _containers.RepeatedCompositeFieldContainer[Finished]
    recalled: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run: _Optional[str] = ..., fence: _Optional[int] = ..., started: _Optional[_Iterable[_Union[Started, _Mapping]]] = ..., finished: _Optional[_Iterable[_Union[Finished, _Mapping]]] = ..., recalled: _Optional[_Iterable[int]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("digest", "offset", "size", "data", "secret", "run")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    offset: int
    size: int
    data: bytes
    secret: bool
    run: str
    def __init__(self, digest: _Optional[bytes] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ..., secret: _Optional[bool] = ..., run: _Optional[str] = ...) -> None: ...

class Log(_message.Message):
    __slots__ = ("run", "file", "offset", "data")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    run: str
    file: str
    offset: int
    data: bytes
    def __init__(self, run: _Optional[str] = ..., file: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class LogAck(_message.Message):
    __slots__ = ("run", "file", "offset")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    run: str
    file: str
    offset: int
    def __init__(self, run: _Optional[str] = ..., file: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("open", "proof", "parts", "assigns", "recalls", "cancels", "acks", "wants", "close", "log_acks", "lacks", "drops")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNS_FIELD_NUMBER: _ClassVar[int]
    RECALLS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    LOG_ACKS_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    open: Open
    proof: Proof
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    assigns: _containers.RepeatedCompositeFieldContainer[Assign]
    recalls: _containers.RepeatedCompositeFieldContainer[Some]
    cancels: _containers.RepeatedCompositeFieldContainer[Some]
    acks: _containers.RepeatedCompositeFieldContainer[Some]
    wants: _containers.RepeatedScalarFieldContainer[bytes]
    close: bool
    log_acks: _containers.RepeatedCompositeFieldContainer[LogAck]
    lacks: Lacks
    drops: _containers.RepeatedCompositeFieldContainer[Some]
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., proof: _Optional[_Union[Proof, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., assigns: _Optional[_Iterable[_Union[Assign, _Mapping]]] = ..., recalls: _Optional[_Iterable[_Union[Some, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[Some, _Mapping]]] = ..., acks: _Optional[_Iterable[_Union[Some, _Mapping]]] = ..., wants: _Optional[_Iterable[bytes]] = ..., close: _Optional[bool] = ..., log_acks: _Optional[_Iterable[_Union[LogAck, _Mapping]]] = ..., lacks: _Optional[_Union[Lacks, _Mapping]] = ..., drops: _Optional[_Iterable[_Union[Some, _Mapping]]] = ...) -> None: ...

class Lacks(_message.Message):
    __slots__ = ("lacks",)
    LACKS_FIELD_NUMBER: _ClassVar[int]
    lacks: _containers.RepeatedCompositeFieldContainer[Lack]
    def __init__(self, lacks: _Optional[_Iterable[_Union[Lack, _Mapping]]] = ...) -> None: ...

class Lack(_message.Message):
    __slots__ = ("labels", "node", "why")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.ScalarMap[str, str]
    node: str
    why: str
    def __init__(self, labels: _Optional[_Mapping[str, str]] = ..., node: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("run", "name", "root", "uses", "nonce", "protocol", "version", "python", "logs", "lacks", "kept")
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    run: str
    name: str
    root: str
    uses: _containers.RepeatedCompositeFieldContainer[Use]
    nonce: bytes
    protocol: int
    version: str
    python: str
    logs: bool
    lacks: _containers.RepeatedCompositeFieldContainer[Lack]
    kept: _containers.RepeatedCompositeFieldContainer[Kept]
    def __init__(self, run: _Optional[str] = ..., name: _Optional[str] = ..., root: _Optional[str] = ..., uses: _Optional[_Iterable[_Union[Use, _Mapping]]] = ..., nonce: _Optional[bytes] = ..., protocol: _Optional[int] = ..., version: _Optional[str] = ..., python: _Optional[str] = ..., logs: _Optional[bool] = ..., lacks: _Optional[_Iterable[_Union[Lack, _Mapping]]] = ..., kept: _Optional[_Iterable[_Union[Kept, _Mapping]]] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("fence", "attempts", "digests")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    fence: int
    attempts: _containers.RepeatedScalarFieldContainer[int]
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, fence: _Optional[int] = ..., attempts: _Optional[_Iterable[int]] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Use(_message.Message):
    __slots__ = ("fence", "worker", "queued", "started")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    fence: int
    worker: str
    queued: _containers.RepeatedScalarFieldContainer[int]
    started: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, fence: _Optional[int] = ..., worker: _Optional[str] = ..., queued: _Optional[_Iterable[int]] = ..., started: _Optional[_Iterable[int]] = ...) -> None: ...

class Tell(_message.Message):
    __slots__ = ("challenge", "welcome", "refusal", "joined", "gone", "rooms", "parts", "reports", "wants", "logs", "missing", "receipts")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    ROOMS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    challenge: Challenge
    welcome: Welcome
    refusal: Refusal
    joined: _containers.RepeatedCompositeFieldContainer[Joined]
    gone: _containers.RepeatedCompositeFieldContainer[Gone]
    rooms: _containers.RepeatedCompositeFieldContainer[Room]
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    wants: _containers.RepeatedScalarFieldContainer[bytes]
    logs: _containers.RepeatedCompositeFieldContainer[Log]
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    def __init__(self, challenge: _Optional[_Union[Challenge, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., joined: _Optional[_Iterable[_Union[Joined, _Mapping]]] = ..., gone: _Optional[_Iterable[_Union[Gone, _Mapping]]] = ..., rooms: _Optional[_Iterable[_Union[Room, _Mapping]]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., wants: _Optional[_Iterable[bytes]] = ..., logs: _Optional[_Iterable[_Union[Log, _Mapping]]] = ..., missing: _Optional[_Iterable[bytes]] = ..., receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ...) -> None: ...

class Joined(_message.Message):
    __slots__ = ("worker", "generation", "labels", "slots", "fence", "unfit")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    UNFIT_FIELD_NUMBER: _ClassVar[int]
    worker: str
    generation: int
    labels: _containers.ScalarMap[str, str]
    slots: int
    fence: int
    unfit: str
    def __init__(self, worker: _Optional[str] = ..., generation: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., slots: _Optional[int] = ..., fence: _Optional[int] = ..., unfit: _Optional[str] = ...) -> None: ...

class Gone(_message.Message):
    __slots__ = ("worker", "generation", "fence", "reason", "next")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    worker: str
    generation: int
    fence: int
    reason: str
    next: int
    def __init__(self, worker: _Optional[str] = ..., generation: _Optional[int] = ..., fence: _Optional[int] = ..., reason: _Optional[str] = ..., next: _Optional[int] = ...) -> None: ...

class Room(_message.Message):
    __slots__ = ("worker", "generation", "slots")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    worker: str
    generation: int
    slots: int
    def __init__(self, worker: _Optional[str] = ..., generation: _Optional[int] = ..., slots: _Optional[int] = ...) -> None: ...
