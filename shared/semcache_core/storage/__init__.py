"""The SQL store of all cache entries.

- `ledger`: opens the database, counts entries, holds the two objects below
- `lookups`: reads entries and validates what is read
- `entries`: inserts, counts hits, evicts and deletes
- `eviction`: how much space entries take, and which ones go when a limit is reached
- `index_state`: which collection of the vector index is live, and how far it goes
- `schema`: tables and versions, and the counts of lookups
- `database`: the base class of both databases: reads, writes, connections, forks
- `sqlite`, `postgres`: the two databases
"""
