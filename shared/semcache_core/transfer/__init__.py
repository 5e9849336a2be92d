"""Export and import.

- `entries`: reads entries one by one with everything known about them
- `jsonl`: the file format, a JSON object per line
- `transfer`: writes an export, reads an import
"""
