"""Where mail goes, for the operator: depth, rate, limits, what sites say."""
