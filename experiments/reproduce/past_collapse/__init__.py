"""Past the collapse: which parts keep self-play rising, screened on one split and confirmed on the other."""
