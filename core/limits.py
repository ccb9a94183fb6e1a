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
HEADERS_BYTES_MAX = 64 * KIB
CLIENT_BODY_IDLE_S = 20.0  # a client that sends nothing for this long is answered 408
CLIENT_HEAD_S = 20.0  # for the whole head of a request, from its first byte
CLIENT_READ_IDLE_S = 60.0  # a client that takes nothing of its answer for this long is cut off
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
SEAT_WAIT_S = 10.0  # how long an invocation waits for a seat before 503
TICKETS_PER_FUNCTION_MAX = 1000

# Builds
BUILD_LOG_BYTES_MAX = 256 * KIB
BUILD_LOG_TAIL_BYTES = 8 * KIB
BUILD_HEARTBEAT_S = 3.0
BUILD_STALE_S = 15.0  # a build without a heartbeat for this long is taken over
BUILD_ATTEMPTS_MAX = 3
DEPENDENCIES_BYTES_MAX = 2048 * MIB
UNPINNED_CACHE_S = 24 * 3600

# How limits relate
assert LOG_INVOCATION_BYTES_MAX >= LOG_LINE_BYTES_MAX
assert BUILD_STALE_S > 3 * BUILD_HEARTBEAT_S
assert BUILD_LOG_BYTES_MAX > BUILD_LOG_TAIL_BYTES
assert INLINE_CODE_BYTES_MAX < JSON_BODY_BYTES_MAX
