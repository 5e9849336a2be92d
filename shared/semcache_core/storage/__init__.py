"""The SQL record of every entry.

- `ledger`: opens the database; reads and writes entries
- `eviction`: how much space entries take, and which ones go when a limit is reached
- `index_state`: which collection of the vector index is live, and how far it goes
- `schema`: tables and versions
- `rows`: validates values read from the database
- `database`: what a ledger needs of a database: connections, locks, forks, errors
- `sqlite`, `postgres`: the two databases
"""
