"""The Python shim: Hearth's process inside a sandbox. runtimes/PROTOCOL.md is its contract.

boot.py begins; serial.py, parallel.py and forking.py are the three ways to answer calls.
"""
