"""Nearest live entries of one scope.

- `retriever`: candidates for a question, from the scan, the index, or both
- `scan`: vectors kept in memory and compared one by one
- `chroma`: the vector index in Chroma, a collection per large partition
- `embedded`: the directory of an embedded index, and what protects it
- `ownership`: which process has the embedded index open
- `remote`: asks the owning process over a private Unix socket
- `sync`: keeps the index up to date with the ledger
- `compaction`: replaces a collection full of deleted vectors with a new one
"""
