"""The bridge: serves the AWS Lambda Runtime API to the function's own program, `bootstrap`, and
speaks the wire of runtimes/PROTOCOL.md to the executor. Standard library only, one thread.

boot.py begins; bootstrap.py starts the program; api.py knows the calls; http.py the connections.
"""
