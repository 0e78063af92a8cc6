"""Measurements side by side with a peer, in one run, alternating: ``make bench``, or ``make bench CASE=start-exit``.

Times differ between machines and hours; ratios to a peer of the same minute do not.  Nothing here is
a test: no number is asserted.  The figures go to the screen and to build/bench.json.
"""
