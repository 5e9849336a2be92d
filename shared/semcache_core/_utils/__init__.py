"""Small helpers that know nothing of caches.

- `courtesy`: finds the core of a question, without the greeting, thanks and emoji around it
- `csv_rows`: reads CSV files wherever JSON lines are read
- `deadline`: runs calls that may hang, with a time limit and a limit on how many run at once
- `files`: writes a file whole or not at all
- `intervals`: confidence intervals of measured shares
- `json_lines`: parses lines of JSON into pydantic models
- `lazy`: names that are loaded at first use, and packages that need an extra
- `own_faults`: tells a fault of this process from one of what it uses
"""
