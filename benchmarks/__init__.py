"""One file per claim: the same work done by a peer in the same run, interleaved, as ratios."""
