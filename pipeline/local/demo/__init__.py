"""`surgeline demo`: a simulated hospital, and what its systems send."""
