"""What every runtime does, and what one does not, with the reason: docs/runtimes.md shows this
table, and test_table.py holds both to the tests that were collected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PYTHON, NODE, CUSTOM, WASM = RUNTIMES = ("python3.13", "node24", "custom", "wasm")
# Dart's programs are custom ones: the same image, and the same bridge.
AS_ANOTHER = {"dart3": CUSTOM}

_FRESH = "each call is a fresh instance"
_NO_FILES = "a module sees no file at all"
_TO_THE_END = "its standard output is read to the end first"
_RESULT = "the log is standard error: standard output is the result"
_HOST_LIVES = "a trap or an exit status is the call's own error; the host lives on"


@dataclass(frozen=True, slots=True)
class Case:
    """The tests that show it: on the runtimes with a shim of their own, and on the wasm host; or
    why that does not do it."""

    shims: str
    wasm: str = ""
    wasm_does_not: str = ""


CASES: Mapping[str, Case] = {
    "JSON of every kind": Case(
        "test_a_json_value_comes_back_as_it_went", "test_json_comes_back_as_it_was_sent"
    ),
    "Unicode": Case("test_half_a_surrogate_pair_survives", "test_json_comes_back_as_it_was_sent"),
    "numbers at the edges": Case(
        "test_a_large_integer_is_not_written_as_a_float", "test_json_comes_back_as_it_was_sent"
    ),
    "empty body": Case(
        "test_an_empty_body_is_an_empty_event", "test_an_empty_event_is_an_empty_object"
    ),
    "null": Case("test_a_handler_that_returns_nothing_answers_null", "test_no_output_is_null"),
    "6 MB both ways": Case(
        "test_the_largest_event_and_the_largest_result_pass", "test_six_megabytes_pass_both_ways"
    ),
    "binary body": Case(
        "test_binary_bodies_pass_both_ways_up_to_the_limit", "test_binary_bodies_pass_both_ways"
    ),
    "HTTP event": Case(
        "test_an_event_has_every_field_of_the_format",
        "test_an_http_request_is_an_event_of_format_two",
    ),
    "HTTP response: status, headers, cookies, base64": Case(
        "test_a_response_is_sent_as_described",
        "test_an_object_with_a_status_code_is_the_response",
    ),
    "streamed response": Case(
        "test_what_is_yielded_is_written_as_it_comes", wasm_does_not=_TO_THE_END
    ),
    "environment": Case(
        "test_the_platforms_variables_win", "test_the_environment_is_the_functions_own"
    ),
    "context and remaining time": Case(
        "test_the_context_says_who_is_called_and_for_how_long",
        "test_the_trace_of_a_call_reaches_it",
    ),
    "standard output and error as log": Case(
        "test_both_streams_are_there_before_the_answer_and_apart", wasm_does_not=_RESULT
    ),
    "many lines, unfinished lines": Case(
        "test_a_line_without_its_end_is_there_before_the_answer",
        "test_noise_without_an_end_of_line_is_log_too",
    ),
    "binary noise in the log": Case(
        "test_bytes_past_the_languages_streams_arrive_as_they_are",
        "test_noise_without_an_end_of_line_is_log_too",
    ),
    "a line of 1 MB": Case(
        "test_a_line_of_a_megabyte_is_whole",
        "test_a_flood_of_lines_waits_for_its_reader_and_for_nobody_else",
    ),
    "an error with type, message and trace": Case(
        "test_an_exception_is_told_with_type_message_and_place",
        "test_a_trap_says_what_and_where",
    ),
    "an error while the code is loaded": Case(
        "test_an_exception_at_import_is_told_with_its_place",
        "test_a_handler_that_is_not_there_is_told_what_is",
    ),
    "a crash": Case("test_a_crash_is_told_and_the_next_call_is_served", wasm_does_not=_HOST_LIVES),
    "out of memory": Case(
        "test_want_of_memory_is_told_with_the_limit", "test_memory_ends_at_the_limit"
    ),
    "timeout": Case(
        "test_a_call_that_never_ends_is_ended",
        "test_a_call_ends_at_its_deadline_while_others_are_answered",
    ),
    "calls at the same time": Case(
        "test_calls_overlap_each_in_a_sandbox_of_its_own", "test_many_seats_sleep_side_by_side"
    ),
    "state between warm calls": Case(
        "test_what_a_call_leaves_the_next_one_finds", wasm_does_not=_FRESH
    ),
    "/tmp, writable and bounded": Case(
        "test_the_walls_are_where_they_should_be", wasm_does_not=_NO_FILES
    ),
    "code that cannot be changed": Case(
        "test_the_walls_are_where_they_should_be", wasm_does_not=_NO_FILES
    ),
    "no network": Case("test_the_walls_are_where_they_should_be", "test_there_is_no_file_to_open"),
}


def as_markdown() -> str:
    """The table and the reasons below it, as docs/runtimes.md shows them."""
    reasons = list(dict.fromkeys(x.wasm_does_not for x in CASES.values() if x.wasm_does_not))
    lines = [f"| | {' | '.join(f'`{name}`' for name in RUNTIMES)} |"]
    lines.append("| --- |" + " --- |" * len(RUNTIMES))
    for name, shown in CASES.items():
        why = shown.wasm_does_not
        wasm = f"no ({reasons.index(why) + 1})" if why else "✓"
        lines.append(f"| {name} | ✓ | ✓ | ✓ | {wasm} |")
    notes = [f"{at}. {why}" for at, why in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes]) + "\n"
