"""The command `semcache`, as `python -m semcache_core`."""

from semcache_core.cli import main

if __name__ == "__main__":
    main()
