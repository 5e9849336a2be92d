"""OpenTelemetry. Never records a text.

- `metrics`: counters and histograms of lookups, updates, audits and savings
- `gauges`: levels that are read when they are exported
- `tracing`: spans
"""
