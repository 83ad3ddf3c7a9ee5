"""Scanners of mail that arrives, a file each: `base` is the seam, `null` the stand-in. What is made of findings: flow.scan."""
