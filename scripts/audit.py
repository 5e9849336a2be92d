"""Known vulnerabilities among what is installed, by pip-audit: told, and no reason to fail.

An advisory is published when it pleases its author, so a build that failed for one would fail for
a change that has nothing to do with it. With `--strict`, as before a release, it does fail, for
those that a newer version mends. Where the database cannot be asked, it says that it was skipped.

    python scripts/audit.py PIP_AUDIT SITE_PACKAGES [--strict]
"""

import argparse
import json
import subprocess
import sys
from typing import Any


def report(output: str) -> tuple[list[str], bool] | None:
    """A line for each vulnerability in pip-audit's JSON, one on how many packages were checked, and
    whether a vulnerability can be mended; None where nothing was checked, or it is no such JSON.

    pip-audit itself says that there are none, and succeeds, where it could ask about no package:
    a mirror of the registry need not have advisories.
    """
    try:
        data: Any = json.loads(output)
        skipped = [one["name"] for one in data["dependencies"] if "skip_reason" in one]
        checked = len(data["dependencies"]) - len(skipped)
        found = [
            (one["name"], one["version"], each["id"], each["fix_versions"])
            for one in data["dependencies"]
            for each in one.get("vulns", ())
        ]
    except (ValueError, KeyError, TypeError):
        return None
    if not checked:
        return None
    lines = [
        f"{name} {version}: {advisory}, mended in {', '.join(fixes) or 'no version yet'}"
        for name, version, advisory, fixes in found
    ]
    unchecked = f", not checked: {', '.join(skipped)}" if skipped else ""
    lines.append(f"{len(found)} known vulnerabilities in {checked} packages{unchecked}")
    return lines, any(fixes for _, _, _, fixes in found)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("pip_audit")
    options.add_argument("site_packages")
    options.add_argument("--strict", action="store_true")
    given = options.parse_args()
    command = [given.pip_audit, "--path", given.site_packages, "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        told = report(done.stdout)
        why = done.stderr.strip().rpartition("\n")[2] or "the database answered nothing"
    except (OSError, subprocess.TimeoutExpired) as error:
        told, why = None, str(error)
    if told is None:
        print(f"audit SKIPPED, nothing was checked: {why[:300]}")
        return 0
    lines, mendable = told
    print("\n".join(lines))
    return int(given.strict and mendable)


if __name__ == "__main__":
    sys.exit(main())
