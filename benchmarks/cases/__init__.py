"""The cases of `run.py`: each has `add_options`, `measure` and `table`."""
