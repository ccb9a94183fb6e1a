"""Which conformance tests a runtime cannot be asked, and why. Whatever is not here must pass."""

from __future__ import annotations

SEVERAL = "the Runtime API answers one call at a time"
ANOTHER_KIND = "which generators stream is the bootstrap's affair; what leaves it is the same"
NAMES = "the Runtime API has no word for the names that were found"
READER = "frames are read by the Python shim's own reader"
FRAMES = ("result", "short", "head", "large")
LOADING = "what a bootstrap loads, and from where, is its own affair"
BUFFERS = "between a bootstrap and the bridge lie a socket's buffers: see test_custom.py"
CUSTOM = {
    **dict.fromkeys(
        (
            "test_calls_run_side_by_side",
            "test_each_call_has_its_own_context",
            "test_one_calls_error_is_no_other_calls",
            "test_every_line_says_whose_it_is",
            "test_an_unfinished_line_waits_for_its_call",
            "test_lines_are_whole_however_long_and_many",
            "test_what_has_no_context_is_written_as_it_is",
            "test_one_call_at_a_time_is_not_tagged",
            "test_a_cancel_ends_one_call_and_no_other",
            "test_a_call_that_is_cancelled_at_once_is_answered_once",
            "test_a_call_may_make_something_of_its_cancel",
            "test_an_async_call_alone_in_its_sandbox_is_cancelled_too",
            "test_streams_run_side_by_side",
            "test_a_cancelled_stream_ends_and_no_other",
            "test_the_connections_end_ends_all_calls",
            "test_large_events_and_results_pass_side_by_side",
            "test_many_calls_one_after_the_other_leave_nothing_behind",
            "test_a_handler_that_is_not_async_is_refused",
        ),
        SEVERAL,
    ),
    "[custom-several": SEVERAL,
    "[custom-asynchronous": ANOTHER_KIND,
    "[custom-returned": ANOTHER_KIND,
    "test_an_empty_value_is_no_chunk_but_the_first": "two writes may come in one read",
    "test_a_large_value_comes_in_pieces": "the pieces are those in which a read brings them",
    "test_without_credit_nothing_is_sent_and_nothing_more_is_asked": BUFFERS,
    "test_a_cancel_ends_a_stream_that_waits_for_credit": BUFFERS,
    "test_a_cancel_is_noticed_before_the_next_chunk": BUFFERS,
    "test_a_stem_says_hello": "the bridge's own name is in test_custom.py",
    "test_the_environment_is_the_functions_and_nothing_else": "it is in test_custom.py",
    "test_no_code_at_all": "without code there is no bootstrap: see test_custom.py",
    **dict.fromkeys((f"first_frame_ends_the_shim[custom-{case}" for case in FRAMES), READER),
    "test_a_missing_function": NAMES,
    "test_a_missing_module": NAMES,
    "test_a_handler_is_found": LOADING,
    "test_a_dependency_that_is_missing": LOADING,
    "test_a_syntax_error": LOADING,
    "test_dependencies_are_found": LOADING,
    "test_code_beside_the_module": LOADING,
    "test_the_remaining_time_is_never_negative": "X-Ray's words cannot hold a trace that is none",
}
TABLE = {"custom": CUSTOM}


def reason(runtime: str, test: str) -> str:
    """Why the test is skipped; "" when it applies. A key is a part of tests' names, or of
    what stands in their brackets."""
    return next((why for name, why in TABLE.get(runtime, {}).items() if name in test), "")
