"""A broker and EHRs on this machine, and what makes them fail on purpose."""
