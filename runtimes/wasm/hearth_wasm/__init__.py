"""The wasm host: one process that runs many functions, each call in a fresh instance.

host.py beside this package starts it, compile.py makes what it runs; runtimes/PROTOCOL.md and
docs/wasm.md are its contract. It also holds the rules that the platform itself goes by (naming.py).
"""
