"""`nnneuro_doctor`: what of an installation works."""

from __future__ import annotations

import argparse
import itertools

_PROGRAM = "nnneuro_doctor"


def main(argv: list[str] | None = None) -> int:
    """Print what was found; exit code 1 if something the user needs does not work."""
    argparse.ArgumentParser(_PROGRAM, description="Report whether nnU-Net sees the plugin, and what of the installation works."
                            ).parse_args(argv)
    from nnunet_neuro.doctor import examine

    findings = examine()
    for section, members in itertools.groupby(findings, key=lambda finding: finding.section):
        print(section)
        for finding in members:
            print(f"  {'ok ' if finding.fine else '!! '} {finding.name:<40}{finding.state}")
    troubles = [finding for finding in findings if not finding.fine]
    print(f"\n{len(troubles)} of {len(findings)} want attention (marked !!)." if troubles else "\nEverything works.")
    return 1 if troubles else 0
