"""Load from `wrk`: one body, checked on every answer. A wrong status or body fails the row."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass

# wrk's scripting interface: https://github.com/wg/wrk/blob/master/SCRIPTING
_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
wrk.headers["Content-Type"] = "application/json"
{headers}
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function init(args) wrong = 0; refused = 0 end
function response(status, headers, body)
  if status == 429 or status == 503 then refused = refused + 1
  elseif status ~= 200 or body ~= {expected} then wrong = wrong + 1 end
end
function done(summary, latency, requests)
  local sum, no = 0, 0
  for _, thread in ipairs(threads) do
    sum = sum + thread:get("wrong")
    no = no + thread:get("refused")
  end
  io.write(string.format("RESULT %d %d %.1f %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), sum, summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout, no))
end
"""


class LoadFailed(RuntimeError):
    """An answer was wrong, or the server did not hold."""


@dataclass(frozen=True, slots=True)
class Shot:
    """What one run of wrk saw."""

    rps: float  # of answers that were as expected
    p50_us: float
    refused: int  # 429 or 503


def wrk(
    url: str,
    body: bytes,
    expected: bytes,
    key: str,
    *,
    connections: int,
    seconds: int,
    refusals_max: int = 0,
) -> Shot:
    """Run wrk with one thread. LoadFailed when any answer was not `expected` with status 200, or
    a refusal beyond `refusals_max`."""
    headers = f'wrk.headers["Authorization"] = "Bearer {key}"' if key else ""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            _SCRIPT.format(
                body=json.dumps(body.decode()),
                expected=json.dumps(expected.decode()),
                headers=headers,
            )
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) (\d+) (\d+) (\d+)", ended.stdout)
    if ended.returncode or found is None:
        raise LoadFailed(f"wrk failed on {url}: {ended.stdout}{ended.stderr}")
    requests, duration_us, p50_us, wrong, errors, refused = map(float, found.groups())
    if wrong or errors or not requests or refused > refusals_max:
        facts = f"{wrong:.0f} wrong answers, {errors:.0f} errors, {refused:.0f} refusals"
        raise LoadFailed(f"{url}: {facts} of {requests:.0f}")
    return Shot((requests - refused) / duration_us * 1e6, p50_us, int(refused))
