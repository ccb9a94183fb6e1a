"""A limit on everything, its unit in its name. What operators may change is in settings.py."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Names and requests
NAME_LENGTH_MAX = 63
CONFIG_BYTES_MAX = 256 * KIB
JSON_BODY_BYTES_MAX = 1 * MIB
INLINE_CODE_BYTES_MAX = 512 * KIB
REQUEST_ID_LENGTH_MAX = 128
HEADER_COUNT_MAX = 100
HEADERS_BYTES_MAX = 16 * KIB  # of a request's head; Node's own limit too
HOST_LENGTH_MAX = 300
CLIENT_BODY_IDLE_S = 20.0  # a client that sends nothing for this long is answered 408
CLIENT_HEAD_S = 20.0  # for the whole head of a request, from its first byte
CLIENT_READ_IDLE_S = 60.0  # a client that takes nothing of its answer for this long is cut off
CLIENT_LINGER_S = 5.0  # an early answer is followed by this much listening, so that it arrives
KEEP_ALIVE_S = 75  # an idle connection is closed after this
CONNECTIONS_MAX = 4096
UPLOADS_MAX = 8  # archives received at once; each may need HEARTH_ARCHIVE_BYTES_MAX of disk
PAGE_ITEMS_MAX = 100
ENV_BYTES_MAX = 64 * KIB
ENV_COUNT_MAX = 256
LABELS_COUNT_MAX = 64
DESCRIPTION_LENGTH_MAX = 1024

# Archives, while they are unpacked
ARCHIVE_ENTRIES_MAX = 20_000
ARCHIVE_UNPACKED_BYTES_MAX = 1024 * MIB
ARCHIVE_RATIO_MAX = (
    200  # unpacked / packed, looked at once UNPACKED is past ARCHIVE_RATIO_FREE_BYTES
)
ARCHIVE_RATIO_FREE_BYTES = 16 * MIB
ARCHIVE_PATH_BYTES_MAX = 1024
ARCHIVE_DEPTH_MAX = 32
ARCHIVE_LINK_BYTES_MAX = 1024  # of a symbolic link's target
ARCHIVE_HEADER_BYTES_MAX = 1 * MIB  # of one extension header of a tar
ARCHIVE_HEADERS_MAX = 8  # extension headers in front of one entry of a tar
PACK_PATTERNS_MAX = 100  # of `include`, and of `exclude`, in hearth.toml
PACK_PATTERN_LENGTH_MAX = 256
PACK_STARS_MAX = 3  # in one part of a pattern; each makes matching longer
PACK_LOOKED_AT_MAX = 500_000  # files and directories that packing looks at
ARCHIVE_GZIP_MEMBERS_MAX = 65_536
ARCHIVE_FILES_LISTED_MAX = 1_000
MANIFEST_BYTES_MAX = 256 * KIB

# The wire between executor and shim (runtimes/PROTOCOL.md)
FRAME_HEAD_BYTES_MAX = 128 * KIB
FRAME_OVERHEAD_BYTES = 9  # u8 type, u32 call, u32 head_length
HELLO_TIMEOUT_S = 20.0
INIT_TIMEOUT_S = 30.0
RESPONSE_HEADERS_MAX = 100
RESPONSE_HEADERS_BYTES_MAX = 64 * KIB

# Logs of functions
LOG_LINE_BYTES_MAX = 64 * KIB
LOG_READ_CHUNK_BYTES = 64 * KIB
LOG_INVOCATION_BYTES_MAX = 256 * KIB  # kept for one invocation; the rest is counted and dropped
LOG_SEAT_BYTES_PER_S = 32 * MIB  # a function that prints faster than this is slowed
LOG_FILE_BYTES_MAX = 8 * MIB  # of one function's current segment; two are kept
LOG_TAIL_LINES_MAX = 10_000
LOG_BUFFER_BYTES_MAX = 1 * MIB  # of one function, not yet written; the rest is counted and dropped
LOG_BUFFERS_BYTES_MAX = 16 * MIB  # of all functions together
LOG_FLUSH_S = 0.25

# Sandboxes
SANDBOX_PIDS_MAX = 256
SANDBOX_TMP_MB = 64
SANDBOX_NOFILE = 1024
STARTS_AT_ONCE_MAX = 1000  # of seats, on one node; stems and boots bound them much sooner
FETCHES_AT_ONCE_MAX = 8  # starts that wait for their code beside those that have, or get, a stem
BOOTS_AT_ONCE_MAX = 4  # Podman starts about ten a second whatever is asked of it
SEAT_WAIT_S = 10.0  # how long an invocation waits for a seat before 503
SEAT_WAIT_FAIR_S = 1.0  # after this another function's seat ends for it when its call does
TICKETS_PER_FUNCTION_MAX = 1000
PLACE_WAIT_S = 0.025  # how long an invocation beyond a limit waits for another's end before 429
PLACE_WAITERS_MAX = 1024  # on one node; further ones are refused at once
METER_FRESH_S = 0.002  # the CPU time read as a call ended is that at the next one's begin
PEAK_FRESH_S = 0.01  # a memory peak that did not grow in a call goes on for the next, so long
ANSWER_SPIN_S = 40e-6  # how long an idle node waits for an answer awake; a wake-up takes 10–20 µs
FREEZE_AFTER_S = 0.25  # an idle seat is frozen after this much quiet
WARM_RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # pauses between tries to make a seat that is kept
ENDS_REMEMBERED_MAX = 8192  # versions and functions of which is known why they have no seat
SHUTDOWN_GRACE_S = 5.0  # the longest a stop waits for functions that were told to end
HOST_KEEP_S = 60.0  # a host that nobody has a seat in ends after this
STEM_MB = 16  # what a booted sandbox without code holds, generously
STEMS_MAX = 24  # of one kind, unless HEARTH_STEMS_MAX says otherwise
STEM_BUDGET_SHARE = 8  # at most this part of the node's memory is for stems
STEM_BURST_S = 2.0  # cold starts within this time count as one burst
STEM_MEMORY_S = 600.0  # the largest burst of this time sets how many stems are kept
STEM_LOOK_S = 30.0  # how often a stock is looked at for what is more than its level
REFILLS_AT_ONCE_MAX = 2  # boots for the stock; those that somebody waits for come first
REFILL_PATIENCE_S = 1.0  # how long refilling stands back for cold starts under way
INIT_FAILURES_MAX = 3  # in a row, then a version is not tried again before a pause
INIT_PAUSE_S = 1.0  # the first of these pauses; each failed try doubles it
INIT_PAUSE_MAX_S = 60.0
INIT_FAILING_MAX = 4096  # versions remembered as failing
STREAM_WINDOW_BYTES = 256 * KIB  # of a streamed answer that nobody has read yet
STREAM_CHUNK_BYTES_MAX = 64 * KIB

# Builds
BUILD_LOG_BYTES_MAX = 256 * KIB
BUILD_LOG_TAIL_BYTES = 8 * KIB
BUILD_HEARTBEAT_S = 3.0
BUILD_STALE_S = 15.0  # a build without a heartbeat for this long is taken over
BUILD_ATTEMPTS_MAX = 3
DEPENDENCIES_BYTES_MAX = 2048 * MIB
DEPENDENCIES_ENTRIES_MAX = 200_000
UNPINNED_CACHE_S = 24 * 3600
DEPENDENCY_FILES_MAX = 2_000  # read to know a list of dependencies: it, what it names, local trees
DEPENDENCY_FILES_BYTES_MAX = 64 * MIB
DEPENDENCY_LIST_BYTES_MAX = 4 * MIB  # of one list: thousands of packages, each with its hashes
DEPENDENCY_LOCK_BYTES_MAX = 32 * MIB
REQUIREMENTS_MAX = 5_000  # packages and options that the lists of one function name together
VERSION_BYTES_MAX = 250 * MIB  # a version unpacked: its code and what was installed for it
PACKAGES_SHOWN_MAX = 5  # of those that made it too large; and of those in a build's log
BUILD_INDEXES_BYTES_MAX = 256 * KIB
BUILD_INDEXES_EXTRA_MAX = 20
BUILD_LOG_LINE_BYTES_MAX = 4 * KIB
COMPLAINTS_S = 60.0  # a background process repeats the same warning at most this often
BUILDS_AT_ONCE_MAX = 8  # on one node; of them HEARTH_BUILDS_MAX may install something
BUILD_NOFILE = 4096
BUILD_CPUS_MAX = 2
BUILD_CPU_SHARES = 256  # a quarter of what a function weighs when both want a core
BUILD_PIDS_MAX = 512
BUILD_TMP_MB = 256
LAYER_RECORDS_KEPT_S = 30 * 24 * 3600  # a fully pinned list's layer, since it was last used
BUILD_CHECK_S = 120.0  # one try of the handler check, from code fetch to READY
BUILD_WAIT_S = 2.0  # longest pause between two tries of a part that is away
BUILD_OUTPUT_BYTES_MAX = 16 * MIB  # looked at; what an installation prints beyond it is dropped
BUILDER_RSS_BYTES_MAX = 256 * MIB  # an idle builder over this starts itself anew
BUILDER_FILES_MAX = 512  # likewise open files
SWEEP_S = 5.0  # how often lost and stale builds are looked for
SWEEP_OBJECTS_S = 600.0  # how often unreferenced objects are looked for
OBJECT_GRACE_S = 3600.0  # an object stays this long after it was first seen unreferenced

# WebAssembly
WASM_MODULE_BYTES_MAX = 64 * MIB
WASM_ARTIFACT_BYTES_MAX = 512 * MIB  # what the compiler may make of a module
WASM_COMPILE_S = 120.0  # unless HEARTH_BUILD_TIMEOUT_S is less
WASM_CHECKED_MAX = 4096  # artifacts whose signature this process remembers to have checked
WASM_RECORDS_MAX = 4096  # artifacts that this node compiled for itself, remembered on disk

# Redis
REDIS_CONNECT_S = 2.0
REDIS_ANSWER_S = 5.0
NOTICE_BYTES_MAX = 16 * KIB
NOTICE_SILENCE_S = 15.0  # a listener pings after this long without a notice
REDIS_RETRY_S = 2.0  # longest pause between two tries to reach a Redis that went away

# The catalog
ALIAS_BEFORE_MAX = 50  # how many rollbacks an alias remembers
ALIAS_WEIGHTS_MAX = 8
VERSION_NUMBER_MAX = 2**31 - 1
VERSION_ERROR_LENGTH_MAX = 1000
KEY_NAME_LENGTH_MAX = 200
KEY_FUNCTIONS_MAX = 100
KEY_TEXT_LENGTH_MIN = 32
CATALOG_CONNECTIONS_MAX = 8
CATALOG_CONNECT_S = 5.0
CATALOG_LOCK_WAIT_S = 10.0  # for another writer, or for a free connection
CATALOG_STATEMENT_S = 30.0
CATALOG_MIGRATION_WAIT_S = 120.0  # for another process that is migrating

# The object store
STORE_CHUNK_BYTES = 1 * MIB  # read, hashed and written at a time
OBJECT_KEY_BYTES_MAX = 512
S3_CONNECT_TIMEOUT_S = 5.0
S3_READ_TIMEOUT_S = 30.0
S3_ATTEMPTS_MAX = 3
S3_PART_BYTES = 8 * MIB  # larger objects are sent in parts of this size
S3_PARTS_AT_ONCE = 4

# How limits relate
# A byte of a header may take six in the JSON of a frame's head, and the host stands in it twice.
assert 6 * (HEADERS_BYTES_MAX + HOST_LENGTH_MAX) + 16 * HEADER_COUNT_MAX < FRAME_HEAD_BYTES_MAX
assert ENV_BYTES_MAX + 16 * KIB < FRAME_HEAD_BYTES_MAX
assert LOG_INVOCATION_BYTES_MAX >= LOG_LINE_BYTES_MAX
assert BUILD_STALE_S > 3 * BUILD_HEARTBEAT_S
assert BUILD_LOG_BYTES_MAX > BUILD_LOG_TAIL_BYTES
assert BUILD_LOG_TAIL_BYTES > BUILD_LOG_LINE_BYTES_MAX
assert INLINE_CODE_BYTES_MAX < JSON_BODY_BYTES_MAX
assert DEPENDENCIES_BYTES_MAX >= ARCHIVE_UNPACKED_BYTES_MAX  # a layer may hold any archive
assert DEPENDENCIES_ENTRIES_MAX >= ARCHIVE_ENTRIES_MAX
assert STREAM_WINDOW_BYTES >= 2 * STREAM_CHUNK_BYTES_MAX
assert PLACE_WAIT_S < 0.05  # who is refused is told within 50 ms
assert SEAT_WAIT_FAIR_S < SEAT_WAIT_S
